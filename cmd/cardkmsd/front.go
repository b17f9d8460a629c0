package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"cardkms/api/server"
)

// front is what clients meet: TLS and the API. Who is let in, and by which certificates,
// may change while it serves.
type front struct {
	n      *node
	logger *slog.Logger
	http   *http.Server
	api    *server.Server
	traces *traces
	tls    atomic.Pointer[transport]
	// handshake is the configuration of handshakes from now on. It is another one only
	// when the transport is, because the tickets of resumption belong to it.
	handshake atomic.Pointer[tls.Config]

	cfg *config // in force; owned by watch, once it runs
}

func newFront(cfg *config, n *node, traces *traces, logger *slog.Logger) (*front, error) {
	f := &front{n: n, logger: logger, cfg: cfg, traces: traces}
	t, err := cfg.transport(nil)
	if err != nil {
		return nil, err
	}
	admission, err := cfg.admission(t)
	if err != nil {
		return nil, err
	}
	f.api, err = server.New(server.Config{
		Service: n.service, Admission: admission, Logger: logger, Observer: f.served, Degraded: n.without,
		Limits: server.Limits{RequestsPerSecond: cfg.Limits.RequestsPerSecond, ImageBytesMax: cfg.Limits.ImageBytes},
	})
	if err != nil {
		return nil, err
	}
	f.use(t)
	listening := f.handshake.Load().Clone()
	listening.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.handshake.Load(), nil }
	f.http = server.HTTPServer(traces.around(f.api), listening)
	f.http.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	return f, nil
}

// served tells of a request whoever measures.
func (f *front) served(ctx context.Context, s server.Served) {
	f.n.metrics.served(s)
	f.traces.served(ctx, s)
}

// admission is who is let in by a configuration and the files that it names.
func (c *config) admission(t transport) (server.Admission, error) {
	callers, err := c.callers()
	return server.Admission{Clients: callers, Proxies: c.Proxies, ClientCAs: t.pool(), Revoked: t.refuses}, err
}

var errRevoked = errors.New("the client certificate is revoked")

// use has the next handshake see a transport.
func (f *front) use(t transport) {
	f.tls.Store(&t)
	c := server.TLSConfig(t.cert, t.pool())
	// Also of a session that is resumed, whose certificate is not verified again.
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.VerifiedChains) == 0 || t.refuses(s.VerifiedChains[0]) {
			return errRevoked
		}
		return nil
	}
	f.handshake.Store(c)
}

func (f *front) ends() map[string]time.Time { return f.tls.Load().ends() }
