package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"cardkms/api/server"
)

// front is what clients meet: TLS and the API.
type front struct {
	http *http.Server
	tls  transport
}

func newFront(cfg *config, n *node, logger *slog.Logger) (*front, error) {
	callers, err := cfg.callers()
	if err != nil {
		return nil, err
	}
	t, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	h, err := server.New(server.Config{
		Service: n.service, Clients: callers, Proxies: cfg.Proxies, ClientCAs: t.pool(), Logger: logger, Observer: n.metrics.served,
		Limits: server.Limits{RequestsPerSecond: cfg.Limits.RequestsPerSecond, ImageBytesMax: cfg.Limits.ImageBytes},
	})
	if err != nil {
		return nil, err
	}
	srv := server.HTTPServer(h, server.TLSConfig(t.cert, t.pool()))
	srv.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	return &front{http: srv, tls: t}, nil
}

// transport is what the files under tls: hold.
type transport struct {
	cert tls.Certificate
	cas  []*x509.Certificate // of clients
}

// transport reads the files under tls:.
func (c *config) transport() (t transport, err error) {
	if t.cert, err = tls.LoadX509KeyPair(c.path(c.TLS.Certificate), c.path(c.TLS.Key)); err != nil {
		return t, fmt.Errorf("reading the server's certificate: %w", err)
	}
	b, err := os.ReadFile(c.path(c.TLS.ClientCAs))
	if err != nil {
		return t, fmt.Errorf("reading the clients' CA: %w", err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return t, fmt.Errorf("reading the clients' CA: %w", err)
		}
		t.cas = append(t.cas, ca)
	}
	if len(t.cas) == 0 {
		return t, errors.New("tls.clientCAs holds no certificate")
	}
	return t, nil
}

func (t transport) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range t.cas {
		pool.AddCert(ca)
	}
	return pool
}

// ends returns when the server's certificate expires, and the first of the clients' CAs.
func (f *front) ends() map[string]time.Time {
	first := f.tls.cas[0].NotAfter
	for _, ca := range f.tls.cas {
		if ca.NotAfter.Before(first) {
			first = ca.NotAfter
		}
	}
	return map[string]time.Time{"server": f.tls.cert.Leaf.NotAfter, "client-ca": first}
}
