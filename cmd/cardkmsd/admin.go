package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// errAdmin: whoever reads the metrics of a service sees when it is weak.
var errAdmin = errors.New("admin is an address of this machine, such as 127.0.0.1:9464, or unix:PATH: it is plain HTTP")

// adminAddress returns network and address of the admin listener, which is on this
// machine.
func (c *config) adminAddress() (network, address string, err error) {
	if path, ok := strings.CutPrefix(c.Admin, "unix:"); ok && path != "" {
		return "unix", c.path(path), nil
	}
	host, _, err := net.SplitHostPort(c.Admin)
	if err != nil || !net.ParseIP(host).IsLoopback() || checkListen(c.Admin) != nil {
		return "", "", errAdmin
	}
	return "tcp", c.Admin, nil
}

// serveAdmin serves the metrics until the context ends; it does nothing where the
// configuration has no admin listener.
func (n *node) serveAdmin(ctx context.Context, logger *slog.Logger) (stop func(), err error) {
	if n.cfg.Admin == "" {
		return func() {}, nil
	}
	network, address, err := n.cfg.adminAddress()
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listening for the administrator: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
	}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: adminTimeout, ReadTimeout: adminTimeout, WriteTimeout: 3 * adminTimeout, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("the administrator is not served", "error", err)
		}
	}()
	logger.Info("serving the administrator", "address", l.Addr().String())
	return func() { _ = srv.Close(); <-ended }, nil
}

// adminTimeout bounds a request of the administrator.
const adminTimeout = 5 * time.Second
