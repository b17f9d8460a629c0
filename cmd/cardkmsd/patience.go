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
	"cardkms/kms/store"
	"cardkms/kms/vault"
)

// openPatiently opens a node. It waits for a Vault or a database that is away, for as long
// as it takes (unless the answer to a COMMIT was lost, which ends the start), and stays
// sealed with a PIN that the token refused, or did not answer to, until somebody stops the
// process: neither a probe nor whatever starts it again may use up the tries of the token.
// Without a node and without an error, the process was stopped while it waited.
func openPatiently(ctx context.Context, cfg *config, d *sealedDoor, logger *slog.Logger) (*node, error) {
	var pause vault.BackOff
	for {
		n, err := begin(ctx, cfg, logger)
		switch {
		case err == nil:
			return n, nil
		case ctx.Err() != nil:
			return nil, err
		case errors.Is(err, vault.ErrSpent):
			logger.Error("ALARM: the secret id for Vault is not ours alone", slog.Any("error", err))
			return nil, err
		case hsm.PINRefused(err):
			return nil, d.stay(ctx, fault.New(fault.PINRefused, "the token refused its PIN, which is not presented again; a person must correct it and start the service again"), err)
		case hsm.PINUnanswered(err):
			return nil, d.stay(ctx, fault.New(fault.TokenUnavailable, "the token did not answer to its PIN, which is not presented again; a person must look at the token and start the service again"), err)
		}
		away := awaited(err)
		if away == nil {
			return nil, sealedAtStart(err)
		}
		logger.Warn("sealed: "+away.Detail, slog.Any("error", err))
		if err := d.show(ctx, away); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(pause.Next()):
		}
	}
}

// awaited says what a start waits for that failed with err, nil for nothing.
func awaited(err error) *fault.Error {
	var vaultAway errVault
	switch {
	case errors.As(err, &vaultAway):
		return fault.New(fault.VaultUnavailable, "the service waits for Vault; its log says why")
	case errors.Is(err, store.ErrAway):
		return fault.Because(fault.AuditUnavailable, "the service waits for its database; its log says why", store.ErrAway)
	}
	return nil
}

// sealedDoor listens at the node's address while there is no node. Owned by serve.
type sealedDoor struct {
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
func (d *sealedDoor) show(ctx context.Context, why *fault.Error) error {
	d.why.Store(why)
	if d.srv != nil {
		return nil
	}
	if d.cfg.TLS.Vault != nil && (d.cfg.fromVault == nil || d.cfg.fromVault.certificate == nil) {
		if !d.silent {
			d.logger.Warn("nothing listens before Vault gives a certificate", slog.String("address", d.cfg.Listen))
			d.silent = true
		}
		return nil
	}
	t, err := d.cfg.transport(nil)
	if err != nil {
		return err
	}
	if err := d.listen(ctx); err != nil {
		return err
	}
	d.srv = server.HTTPServer(server.Sealed(d.why.Load), server.TLSConfig(t.cert, t.pool()))
	d.srv.ErrorLog = slog.NewLogLogger(d.logger.Handler(), slog.LevelDebug)
	d.ended = make(chan struct{})
	go func() {
		defer close(d.ended)
		_ = d.srv.ServeTLS(leftOpen{d.l}, "", "") // ends by stop
	}()
	d.logger.Info("sealed", slog.String("address", d.l.Addr().String()), slog.String("code", string(why.Code)))
	return nil
}

func (d *sealedDoor) listen(ctx context.Context) error {
	if d.l != nil {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	d.l = l.(*net.TCPListener)
	return nil
}

// stay has probes hear why the node is sealed until somebody stops the process, and returns
// what it was sealed by.
func (d *sealedDoor) stay(ctx context.Context, why *fault.Error, err error) error {
	d.logger.Error("sealed: "+why.Detail, slog.Any("error", err))
	if serr := d.show(ctx, why); serr != nil {
		// Stopping would have the PIN presented again by what starts services.
		d.logger.Error("nobody hears why the node is sealed", slog.Any("error", serr))
	}
	<-ctx.Done()
	return err
}

// handOver ends the answers of a sealed node and returns the listener, which was not
// closed meanwhile: no client is refused between the two.
func (d *sealedDoor) handOver(ctx context.Context) (net.Listener, error) {
	if err := d.listen(ctx); err != nil {
		return nil, err
	}
	d.stop()
	l := d.l
	d.l = nil
	return l, l.SetDeadline(time.Time{})
}

func (d *sealedDoor) stop() {
	if d.srv == nil {
		return
	}
	_ = d.srv.Close() // its answers say that nothing is done
	<-d.ended
	d.srv = nil
}

// close closes what was not handed over.
func (d *sealedDoor) close() {
	d.stop()
	if d.l != nil {
		_ = d.l.Close()
	}
}

// leftOpen is a listener that a server can be made to leave without closing it.
type leftOpen struct{ *net.TCPListener }

// Close ends a call of Accept that waits.
func (k leftOpen) Close() error { return k.SetDeadline(time.Unix(1, 0)) }
