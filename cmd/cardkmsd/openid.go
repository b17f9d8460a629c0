package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"cardkms/api/server"
	"cardkms/kms"
	"cardkms/kms/fault"
)

// peopleConfig is the listener for people, who log in at an OpenID provider and present
// the ID token as a bearer token: [OIDC] OpenID Connect Core 1.0, Section 3.1.3.7.
type peopleConfig struct {
	Listen   string `yaml:"listen"`   // empty for no such listener
	Issuer   string `yaml:"issuer"`   // of the provider
	Audience string `yaml:"audience"` // client id of this service there
	CA       string `yaml:"ca"`       // PEM file that verifies the provider; empty for the system's
	// Subjects says which client of clients: a subject is. Only sub names a person for
	// good; an e-mail address is given to somebody else one day ([OIDC], Section 5.7).
	Subjects map[string]string `yaml:"subjects"`
}

// wrongPeople returns what is wrong with people:.
func (c *config) wrongPeople() (wrong []error) {
	p := c.People
	if p.Listen == "" {
		if p.Issuer != "" || p.Audience != "" || len(p.Subjects) > 0 {
			wrong = append(wrong, errors.New("people.listen is missing"))
		}
		return wrong
	}
	if u, err := url.Parse(p.Issuer); err != nil || u.Scheme != "https" || u.Host == "" {
		wrong = append(wrong, errors.New("people.issuer is the https address of the OpenID provider"))
	}
	if p.Audience == "" || len(p.Subjects) == 0 {
		wrong = append(wrong, errors.New("people.audience or people.subjects is missing"))
	}
	callers, _ := c.callers() // what is wrong with them is said elsewhere
	for _, sub := range slices.Sorted(maps.Keys(p.Subjects)) {
		caller, ok := callers[p.Subjects[sub]]
		if !ok || sub == "" || caller.Role == kms.UpdateServer {
			wrong = append(wrong, fmt.Errorf("people.subjects: %q is no client of clients:, or an update server, which is no person", p.Subjects[sub]))
		}
	}
	return wrong
}

// algorithms of ID tokens. None is "none", and none is made with a secret that we know.
var algorithms = []string{oidc.RS256, oidc.PS256, oidc.ES256, oidc.ES384, oidc.EdDSA}

const (
	providerTimeout = 5 * time.Second
	// providerPause is the least time between two attempts to find a provider.
	providerPause = 2 * time.Second
)

// people verifies tokens of the provider, which is looked for when the first one comes:
// without it programs are served all the same.
type people struct {
	cfg    peopleConfig
	http   *http.Client
	logger *slog.Logger

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // guarded by mu
	tried    time.Time             // guarded by mu
}

func newPeople(c *config, logger *slog.Logger) (*people, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.People.CA != "" {
		b, err := os.ReadFile(c.path(c.People.CA))
		if err != nil {
			return nil, fmt.Errorf("reading people.ca: %w", err)
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(b) {
			return nil, errors.New("people.ca holds no certificate")
		}
	}
	return &people{cfg: c.People, logger: logger, http: &http.Client{
		Timeout: providerTimeout, Transport: &http.Transport{TLSClientConfig: trust, Proxy: http.ProxyFromEnvironment},
	}}, nil
}

// who is a server.Person. Why a token is refused stands in the log only, but for its age,
// which is judged behind its signature and is its holder's to mend.
func (p *people) who(ctx context.Context, token string) (string, error) {
	verifier, err := p.found()
	if err != nil {
		return "", fault.Because(fault.Unauthenticated, "the OpenID provider does not answer", err)
	}
	t, err := verifier.Verify(oidc.ClientContext(ctx, p.http), token)
	var expired *oidc.TokenExpiredError
	if errors.As(err, &expired) {
		return "", fault.Because(fault.Unauthenticated, "the bearer token has expired", err)
	}
	if err != nil {
		return "", fault.Because(fault.Unauthenticated, "the bearer token is not valid here", err)
	}
	uri, ok := p.cfg.Subjects[t.Subject]
	if !ok {
		return "", fault.New(fault.Unauthenticated, "the bearer token is of no known person")
	}
	return uri, nil
}

// found returns the verifier of the provider. Its keys are read again by it when a token
// names one that it does not know.
func (p *people) found() (*oidc.IDTokenVerifier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verifier != nil {
		return p.verifier, nil
	}
	if time.Since(p.tried) < providerPause {
		return nil, errors.New("it did not a moment ago")
	}
	p.tried = time.Now()
	ctx := oidc.ClientContext(context.Background(), p.http) // the provider keeps it
	provider, err := oidc.NewProvider(ctx, p.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	p.verifier = provider.VerifierContext(ctx, &oidc.Config{ClientID: p.cfg.Audience, SupportedSigningAlgs: algorithms})
	return p.verifier, nil
}

// peopleHTTP returns the server for people, which asks for no certificate.
func (f *front) peopleHTTP() (*http.Server, error) {
	p, err := newPeople(f.cfg, f.logger)
	if err != nil {
		return nil, err
	}
	who := func(ctx context.Context, token string) (string, error) {
		uri, err := p.who(ctx, token)
		if err == nil && f.tls.Load().uris[uri] {
			err = fault.New(fault.Unauthenticated, "this identity is revoked")
		}
		return uri, err
	}
	srv := server.HTTPServer(f.traces.around(f.api.People(who)), &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return f.tls.Load().cert(h) },
	})
	srv.ErrorLog = f.http.ErrorLog
	return srv, nil
}
