package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cardkms/audit"
)

func serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API until SIGTERM",
		Long: `Read the configuration, check every key in the token, and serve the API over
mutual TLS. On SIGTERM /readyz answers 503 for as long as limits.drain says, so that
load balancers turn away; then the server takes no new requests, lets those under
way finish, ends the channels and signs a last checkpoint of the audit log.

A start that ends in a sealed state names it, and its page in deploy/runbooks. Exit
status 3 says that another start changes nothing (rollback-detected), 75 that it may
help. With a PIN that the token refused or did not answer to, and while it waits for
Vault or PostgreSQL, the process stays, sealed, and /readyz says so: whatever starts it
again must not use up the token's tries.

On SIGHUP it reads the configuration again: clients, proxies, limits.requestsPerSecond
and what stands under tls:. It is put in force whole or not at all; what else changed
needs a restart. The files under tls: are looked at each minute as well.

Where OTEL_EXPORTER_OTLP_ENDPOINT is set, traces are sent there.

SoftHSM2 is refused unless the configuration says development: true.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(path)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, operatorLog(cmd))
		},
	}
	c.Flags().StringVar(&path, "config", "cardkms.yaml", "configuration `FILE`")
	return c
}

// operatorLog is the log of a command: JSON on standard error.
func operatorLog(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
}

// Times of the server.
const (
	startTimeout    = 10 * time.Minute // a million rows and entries take a minute to compare
	shutdownTimeout = 30 * time.Second
	sweepEvery      = 5 * time.Second
	imagesEvery     = 30 * time.Second // pause between two looks at the images
	tendEvery       = time.Minute      // and at the keys whose time has come
	tokensEvery     = 2 * time.Second  // and at the tokens beside the main one
)

func serve(ctx context.Context, cfg *config, logger *slog.Logger) error {
	if err := cfg.read(logger); err != nil {
		return errUsage{err}
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	defer cfg.closeVault()
	sealed := &sealedDoor{cfg: cfg, logger: logger}
	defer sealed.close()
	n, err := openPatiently(ctx, cfg, sealed, logger)
	if err != nil || n == nil {
		return err
	}
	defer func() {
		n.close()
		logger.Info("stopped", "entries", n.log.Size(), "signed", n.log.Stats().Signed.Size)
	}()
	traces, err := newTraces(ctx, logger)
	if err != nil {
		return err
	}
	defer traces.stop()
	f, err := newFront(cfg, n, traces, logger)
	if err != nil {
		return err
	}
	n.metrics.registry.MustRegister(gauges{n: n, ends: f.ends})
	stopAdmin, err := n.serveAdmin(ctx, logger)
	if err != nil {
		return err
	}
	defer stopAdmin()
	fronts, err := f.listen(ctx, sealed)
	if err != nil {
		return err
	}
	defer func() {
		for _, d := range fronts {
			_ = d.l.Close() // where nothing was served at it; else it is closed
		}
	}()
	// Nothing is left that keeps the service from serving, so the log may say that it does.
	if err := n.announce(ctx, logger); err != nil {
		return sealedAtStart(err)
	}
	n.serves = true
	n.tokens.Tend(ctx)
	logger.Info("serving", "address", fronts[0].l.Addr().String(), "development", cfg.Development)
	return n.run(ctx, f, hangup, fronts)
}

// read reads what the configuration names on this machine, so that what it alone decides
// is said before anything is opened: another start would not change it.
func (c *config) read(logger *slog.Logger) error {
	var wrong []error
	add := func(field string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", field, err))
		}
	}
	_, err := audit.NewVerifier(c.Log.Verifier)
	add("log.verifier", err)
	_, err = c.Token.Pseudonym.root()
	add("token.pseudonym", err)
	_, err = c.Token.State.root()
	add("token.state", err)
	_, err = c.databaseCredentials()
	add("database.password", err)
	if _, err = c.readTokens(); err != nil {
		wrong = append(wrong, err)
	}
	if c.TLS.Vault == nil {
		_, err = c.transport(nil)
		add("tls", err)
	}
	if c.People.Listen != "" {
		_, err = newPeople(c, logger)
		add("people", err)
	}
	return errors.Join(wrong...)
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
	return n, nil
}

// door is a server with its listener.
type door struct {
	*http.Server
	l net.Listener
}

// listen opens the doors: that of programs first, which may be open already, and that of
// people where there is one.
func (f *front) listen(ctx context.Context, sealed *sealedDoor) ([]door, error) {
	l, err := sealed.handOver(ctx)
	if err != nil {
		return nil, err
	}
	doors := []door{{f.http, l}}
	if f.cfg.People.Listen == "" {
		return doors, nil
	}
	srv, err := f.peopleHTTP()
	if err != nil {
		return nil, err
	}
	if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", f.cfg.People.Listen); err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return append(doors, door{srv, l}), nil
}

// drain lets whoever asks /readyz turn away before the listener closes.
func (n *node) drain(logger *slog.Logger) {
	logger.Info("stopping", "drain", n.cfg.Limits.Drain)
	n.service.Stop()
	time.Sleep(n.cfg.Limits.Drain)
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

// run serves until ctx ends or a listener fails.
func (n *node) run(ctx context.Context, f *front, hangup <-chan os.Signal, doors []door) error {
	logger := f.logger
	// Whatever ends the serving, no handler and no watcher may run when the node is closed.
	var handlers gate
	defer handlers.close()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ended := make(chan error, len(doors))
	for _, d := range doors {
		defer func() { _ = d.Close() }()
		d.Handler = handlers.around(d.Handler)
		go func() { ended <- d.ServeTLS(d.l, "", "") }()
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watchers.Go(func() { f.watch(watching, hangup) })
	watchers.Go(func() { watch(watching, logger, imagesEvery, "the images could not be checked", n.service.CheckImages) })
	watchers.Go(func() { watch(watching, logger, tendEvery, "the keys could not be tended", n.service.Tend) })
	watchers.Go(func() {
		watch(watching, logger, tokensEvery, "the tokens could not be tended", func(ctx context.Context) error { n.tokens.Tend(ctx); return nil })
	})
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("serving: %w", err)
		case <-sweep.C:
			n.service.Sweep()
		case <-ctx.Done():
			n.drain(logger)
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
			defer cancel()
			return shutdown(stop, doors)
		}
	}
}

// shutdown closes the listeners and waits for the requests that are under way.
func shutdown(ctx context.Context, doors []door) error {
	errs := make([]error, len(doors))
	var all sync.WaitGroup
	for i, d := range doors {
		all.Go(func() { errs[i] = d.Shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}
