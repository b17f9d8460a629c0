// Package client calls the API of cardkms: one method for each operation, over
// mutual TLS, or for a person with a bearer token over TLS.
//
// It follows the OpenAPI document of package api and promises: a refusal of the
// server is an *api.Problem; a change carries an Idempotency-Key that the client
// makes, and is repeated once, under the same key, when the connection broke or
// the server asked to come back within a few seconds. Streams are not repeated,
// because a reader and a writer cannot be wound back.
//
// A Client is safe for concurrent use. Close releases its idle connections.
package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultTimeout bounds one call that is not a stream, its repetition included.
const DefaultTimeout = 30 * time.Second

// Config says where the server is and who calls. BaseURL and either a certificate
// (Cert, or CertFile and KeyFile) or BearerFile are required; without RootCAs and
// RootCAsFile the system's roots verify the server.
type Config struct {
	BaseURL  string // https://host:port
	Cert     tls.Certificate
	CertFile string // PEM, read when Cert is empty
	KeyFile  string // PEM
	// BearerFile holds a bearer token of the OpenID provider, at most 12 KiB, and is open to
	// its owner only. It is read for each request, so that one that was renewed counts.
	BearerFile  string
	RootCAs     *x509.CertPool
	RootCAsFile string // PEM, read when RootCAs is nil
	ServerName  string // what the server's certificate must name; empty for BaseURL's host
	Timeout     time.Duration
	UserAgent   string
}

// Client calls one server.
type Client struct {
	base      string
	http      *http.Client
	timeout   time.Duration
	userAgent string
	bearer    string // file; empty for a caller with a certificate
}

// New checks a configuration, reads its files and returns a client. It does not
// connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.BaseURL)
	if err != nil || base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" {
		return nil, errors.New("client: the base URL is not of the form https://host:port")
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	c := &Client{
		base: "https://" + base.Host, timeout: cfg.Timeout, userAgent: cfg.UserAgent, bearer: cfg.BearerFile,
		// HTTP/1.1 with a connection for each concurrent call costs both sides less than
		// HTTP/2 for requests as small and as frequent as these.
		http: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
				TLSHandshakeTimeout: 10 * time.Second,
			},
			// Who calls is shown to this server only.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.userAgent == "" {
		c.userAgent = "cardkms-client"
	}
	return c, nil
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (cfg Config) tls() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: cfg.RootCAs, ServerName: cfg.ServerName}
	if err := cfg.identity(out); err != nil {
		return nil, err
	}
	if out.RootCAs == nil && cfg.RootCAsFile != "" {
		pem, err := os.ReadFile(cfg.RootCAsFile)
		if err != nil {
			return nil, fmt.Errorf("client: reading the server's CA: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("client: the file of the server's CA holds no certificate")
		}
	}
	return out, nil
}

// identity puts the caller's certificate into out, if it is not a bearer token that says
// who calls.
func (cfg Config) identity(out *tls.Config) error {
	cert := cfg.Cert
	if cfg.BearerFile != "" {
		if len(cert.Certificate) > 0 || cfg.CertFile != "" || cfg.KeyFile != "" {
			return errors.New("client: a certificate or a bearer token says who calls, not both")
		}
		_, err := readBearer(cfg.BearerFile)
		return err
	}
	if len(cert.Certificate) == 0 {
		var err error
		if cert, err = tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			return fmt.Errorf("client: reading the client certificate: %w", err)
		}
	}
	out.Certificates = []tls.Certificate{cert}
	return nil
}
