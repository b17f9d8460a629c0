package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api/server"
)

func serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API until SIGTERM",
		Long: `Read the configuration, check every key in the token, and serve the API over
mutual TLS. On SIGTERM the server takes no new requests, lets those under way
finish, ends the channels and signs a last checkpoint of the audit log.

SoftHSM2 is refused unless the configuration says development: true.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(path)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	c.Flags().StringVar(&path, "config", "cardkms.yaml", "configuration `FILE`")
	return c
}

// Times of the server.
const (
	startTimeout    = 10 * time.Minute // a million rows and entries take a minute to compare
	shutdownTimeout = 30 * time.Second
	sweepEvery      = 5 * time.Second
	imagesEvery     = 30 * time.Second // pause between two looks at the images
	tendEvery       = time.Minute      // and at the keys whose time has come
)

func serve(ctx context.Context, cfg *config, logger *slog.Logger) error {
	defer cfg.closeVault()
	f := &front{cfg: cfg, logger: logger}
	defer f.close()
	n, err := openPatiently(ctx, cfg, f, logger)
	if err != nil || n == nil {
		return err
	}
	defer n.close()
	srv, err := newHTTP(cfg, n, logger)
	if err != nil {
		return err
	}
	l, err := f.handOver(ctx)
	if err != nil {
		return err
	}
	logger.Info("serving", "address", l.Addr().String(), "development", cfg.Development)
	return n.run(ctx, srv, l, logger)
}

// begin opens a node and checks that it can serve.
func begin(ctx context.Context, cfg *config, logger *slog.Logger) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := cfg.openVault(ctx, logger); err != nil {
		return nil, err
	}
	if err := cfg.openCertificate(ctx); err != nil {
		return nil, err
	}
	n, err := open(ctx, cfg, logger)
	if err != nil {
		return nil, err
	}
	if err := n.verifyKeys(ctx, logger); err != nil {
		n.close()
		return nil, fmt.Errorf("a key in the token is not what it should be: %w", err)
	}
	if err := n.announce(ctx, logger); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// announce says and logs which plans the token's operations follow, and who
// keeps the boundary.
func (n *node) announce(ctx context.Context, logger *slog.Logger) error {
	found := map[string]string{}
	for i, c := range n.token.Capabilities() {
		state := "yes"
		if c.Err != nil {
			state = "no"
		}
		logger.Info("token", "operation", c.Operation, "plan", c.Plan, "able", state)
		found[fmt.Sprintf("op%d", i)] = state
	}
	plan := "composed"
	if strings.HasPrefix(n.token.Capabilities()[0].Plan, "native") {
		plan = "native"
	}
	found["kdf"] = plan
	if v := n.cfg.fromVault; v != nil && v.pinVersion.Load() > 0 {
		found["pin_version"] = fmt.Sprint(v.pinVersion.Load())
	}
	return n.service.Started(ctx, found)
}

func newHTTP(cfg *config, n *node, logger *slog.Logger) (*http.Server, error) {
	callers, err := cfg.callers()
	if err != nil {
		return nil, err
	}
	t, err := serverTLS(cfg)
	if err != nil {
		return nil, err
	}
	h, err := server.New(server.Config{
		Service: n.service, Clients: callers, Proxies: cfg.Proxies, ClientCAs: t.ClientCAs, Logger: logger, Degraded: cfg.degraded,
		Limits: server.Limits{RequestsPerSecond: cfg.Limits.RequestsPerSecond, ImageBytesMax: cfg.Limits.ImageBytes},
	})
	if err != nil {
		return nil, err
	}
	srv := server.HTTPServer(h, t)
	srv.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	return srv, nil
}

// serverTLS returns the listener's side of TLS, with a certificate of files or of Vault.
func serverTLS(cfg *config) (*tls.Config, error) {
	pem, err := os.ReadFile(cfg.path(cfg.TLS.ClientCAs))
	if err != nil {
		return nil, fmt.Errorf("reading the clients' CA: %w", err)
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(pem) {
		return nil, errors.New("tls.clientCAs holds no certificate")
	}
	if cfg.TLS.Vault != nil {
		t := server.TLSConfig(tls.Certificate{}, cas)
		t.Certificates, t.GetCertificate = nil, cfg.fromVault.certificate.Get
		return t, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.path(cfg.TLS.Certificate), cfg.path(cfg.TLS.Key))
	if err != nil {
		return nil, fmt.Errorf("reading the server's certificate: %w", err)
	}
	return server.TLSConfig(cert, cas), nil
}

// watch does something again and again, at most a fifth of the time.
func watch(ctx context.Context, logger *slog.Logger, every time.Duration, failed string, f func(context.Context) error) {
	for pause := every; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		began := time.Now()
		if err := f(ctx); err != nil && ctx.Err() == nil {
			logger.Error(failed, "error", err)
		}
		pause = max(every, 4*time.Since(began))
	}
}

// run serves until ctx ends or the listener fails.
func (n *node) run(ctx context.Context, srv *http.Server, l net.Listener, logger *slog.Logger) error {
	// Whatever ends the serving, no handler may run when the node is closed.
	var busy sync.WaitGroup
	defer busy.Wait()
	defer func() { _ = srv.Close() }()
	inner := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		busy.Add(1)
		defer busy.Done()
		inner.ServeHTTP(w, r)
	})
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	busy.Go(func() { watch(watching, logger, imagesEvery, "the images could not be checked", n.service.CheckImages) })
	busy.Go(func() { watch(watching, logger, tendEvery, "the keys could not be tended", n.service.Tend) })
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("serving: %w", err)
		case <-sweep.C:
			n.service.Sweep()
		case <-ctx.Done():
			logger.Info("stopping")
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
			defer cancel()
			return srv.Shutdown(stop)
		}
	}
}
