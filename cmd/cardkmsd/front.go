package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"cardkms/api/server"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/vault"
)

// openPatiently opens a node. It waits for a Vault that is away, for as long as it takes,
// and stays sealed with a PIN that the token refused until somebody stops the process:
// neither a probe nor whatever starts it again may use up the tries of the token. Without
// a node and without an error, the process was stopped while it waited.
func openPatiently(ctx context.Context, cfg *config, f *front, logger *slog.Logger) (*node, error) {
	var pause vault.BackOff
	for {
		n, err := begin(ctx, cfg, logger)
		var away errVault
		switch {
		case err == nil:
			return n, nil
		case ctx.Err() != nil:
			return nil, err
		case errors.Is(err, vault.ErrSpent):
			logger.Error("ALARM: the secret id for Vault is not ours alone", slog.Any("error", err))
			return nil, err
		case errors.Is(err, hsm.ErrPINRefused):
			logger.Error("sealed: the token refused its PIN, which is not presented again; correct it and start again", slog.Any("error", err))
			if err := f.show(ctx, fault.New(fault.PINRefused, "the token refused its PIN; a person must correct it and start the service again")); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, err
		case !errors.As(err, &away):
			return nil, err
		}
		logger.Warn("sealed: waiting for Vault", slog.Any("error", err))
		if err := f.show(ctx, fault.New(fault.VaultUnavailable, "the service waits for Vault; its log says why")); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(pause.Next()):
		}
	}
}

// front listens at the node's address while there is no node. Owned by serve.
type front struct {
	cfg    *config
	logger *slog.Logger

	why    atomic.Pointer[fault.Error]
	l      *net.TCPListener // nil: nothing listens yet
	srv    *http.Server     // nil: nobody waits
	ended  chan struct{}
	silent bool // the log says why nothing listens
}

// show has probes hear why the node is sealed. Without a certificate nothing can listen:
// the one of Vault comes from Vault.
func (f *front) show(ctx context.Context, why *fault.Error) error {
	f.why.Store(why)
	if f.srv != nil {
		return nil
	}
	if f.cfg.TLS.Vault != nil && (f.cfg.fromVault == nil || f.cfg.fromVault.certificate == nil) {
		if !f.silent {
			f.logger.Warn("nothing listens before Vault gives a certificate", slog.String("address", f.cfg.Listen))
			f.silent = true
		}
		return nil
	}
	t, err := serverTLS(f.cfg)
	if err != nil {
		return err
	}
	if err := f.listen(ctx); err != nil {
		return err
	}
	f.srv = server.HTTPServer(server.Sealed(f.why.Load), t)
	f.srv.ErrorLog = slog.NewLogLogger(f.logger.Handler(), slog.LevelDebug)
	f.ended = make(chan struct{})
	go func() {
		defer close(f.ended)
		_ = f.srv.ServeTLS(kept{f.l}, "", "") // ends by stop
	}()
	f.logger.Info("sealed", slog.String("address", f.l.Addr().String()), slog.String("code", string(why.Code)))
	return nil
}

func (f *front) listen(ctx context.Context) error {
	if f.l != nil {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	f.l = l.(*net.TCPListener)
	return nil
}

// handOver ends the answers of a sealed node and returns the listener, which was not
// closed meanwhile: no client is refused between the two.
func (f *front) handOver(ctx context.Context) (net.Listener, error) {
	if err := f.listen(ctx); err != nil {
		return nil, err
	}
	f.stop()
	l := f.l
	f.l = nil
	return l, l.SetDeadline(time.Time{})
}

func (f *front) stop() {
	if f.srv == nil {
		return
	}
	_ = f.srv.Close() // its answers say that nothing is done
	<-f.ended
	f.srv = nil
}

// close closes what was not handed over.
func (f *front) close() {
	f.stop()
	if f.l != nil {
		_ = f.l.Close()
	}
}

// kept is a listener that a server can be made to leave without closing it.
type kept struct{ *net.TCPListener }

// Close ends a call of Accept that waits.
func (k kept) Close() error { return k.SetDeadline(time.Unix(1, 0)) }
