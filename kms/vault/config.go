package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Config says where a Vault is and how to log in.
type Config struct {
	Address string // https://HOST:PORT
	CACert  string // PEM file of the authority that vouches for it
	Auth    Method
	Logger  *slog.Logger
}

const (
	// CallTimeout bounds one call. An audit device that hangs hangs all of Vault.
	CallTimeout    = 4 * time.Second
	connectTimeout = 2 * time.Second
)

// CheckAddress says what is wrong with the address of a Vault. Whoever reads what goes
// there has the PIN, so it is encrypted always.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New("it is https://HOST:PORT")
	}
	return nil
}

// checkEnvironment refuses variables that the library obeys silently.
func checkEnvironment() error {
	var found []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "VAULT_") {
			found = append(found, name)
		}
	}
	if found == nil {
		return nil
	}
	slices.Sort(found)
	return fmt.Errorf("the environment has %s, which could change where and how secrets travel; unset it, the configuration says everything", strings.Join(found, ", "))
}

// newHTTP returns the connection to Vault: no proxy of the environment, and the
// authority of the configuration alone.
func newHTTP(cfg Config) (*http.Client, error) {
	pem, err := os.ReadFile(cfg.CACert)
	if err != nil {
		return nil, fmt.Errorf("reading Vault's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", cfg.CACert)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if c, ok := cfg.Auth.(*Certificate); ok {
		t.GetClientCertificate = c.load
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: t, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: connectTimeout,
		DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext,
	}}, nil
}

// newAPI returns a client of the library that holds this token, or none. Nothing is
// repeated inside: each caller knows whether a call may be.
func (c *Client) newAPI(token string) (*api.Client, error) {
	a, err := api.NewClient(&api.Config{
		Address: c.cfg.Address, HttpClient: c.http, Timeout: CallTimeout, DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making a client of Vault: %w", err)
	}
	a.SetToken(token)
	return a, nil
}
