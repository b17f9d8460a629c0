package kms

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"cardkms/kms/fault"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
)

// Sealed names a state in which the service does nothing until it ends. Each has a page
// deploy/runbooks/NAME.md.
type Sealed string

// The sealed states.
const (
	// HSMDown: the main token does not answer. It ends by itself.
	HSMDown Sealed = "hsm-down"
	// PINRefused: the main token refused its PIN. Another attempt could lock it, so only
	// a new process makes one.
	PINRefused Sealed = "pin-refused"
	// VaultUnavailable: the process waits for Vault and has not begun. It ends by itself.
	VaultUnavailable Sealed = "vault-unavailable"
	// DatabaseDown: the database does not answer. It ends by itself.
	DatabaseDown Sealed = "database-down"
	// AuditFull: the disk of the log has no room. It ends by itself.
	AuditFull Sealed = "audit-full"
	// RollbackDetected: the database as a whole is not the one that was written. Officers
	// decide.
	RollbackDetected Sealed = "rollback-detected"
	// ClockUnsafe: the clock went back or jumped. It ends when the clock is right, or with
	// a new process.
	ClockUnsafe Sealed = "clock-unsafe"
)

// SealedStates returns every sealed state.
func SealedStates() []Sealed {
	return []Sealed{HSMDown, PINRefused, VaultUnavailable, DatabaseDown, AuditFull, RollbackDetected, ClockUnsafe}
}

// SealedBy returns the sealed state that an error tells of, "" for none.
func SealedBy(err error) Sealed {
	var pin interface {
		error
		PINRefused() bool
	}
	switch fault.CodeOf(err) {
	case fault.AuditFull:
		return AuditFull
	case fault.RollbackDetected:
		return RollbackDetected
	case fault.ClockUnsafe:
		return ClockUnsafe
	case fault.VaultUnavailable:
		return VaultUnavailable
	case fault.PINRefused:
		return PINRefused
	}
	switch {
	case errors.Is(err, ledger.ErrTampered): // at the start
		return RollbackDetected
	case errors.As(err, &pin) && pin.PINRefused():
		return PINRefused
	case errors.Is(err, store.ErrAway):
		return DatabaseDown
	case fault.CodeOf(err) == fault.TokenUnavailable:
		return HSMDown
	}
	return ""
}

// Health is what the service can do now.
type Health struct {
	Sealed []Sealed // empty: it serves
	Err    error    // what was found, for the operator's log; nil if it serves
	Tokens []TokenState
}

// Ready reports whether the service serves.
func (h Health) Ready() bool { return h.Err == nil }

// TokenState is what a token beside the main one does now.
type TokenState struct {
	Name string
	Err  error // why its keys do not serve; nil if they do
}

const (
	healthFor     = time.Second     // how long one look answers whoever asks
	healthTimeout = 2 * time.Second // of one look
)

// health is the newest look, so that probes do not load the token.
type health struct {
	mu      sync.Mutex // held while somebody waits for a look
	at      time.Time
	last    Health
	looking chan Health // of a look that has not come back; nil for none

	stopping atomic.Bool
}

// ErrStopping refuses what comes while the service stops.
var ErrStopping = fault.New(fault.AuditUnavailable, "the service is stopping")

// Stop has Health say that the service stops, so that nobody sends it more work. It goes
// on to serve until Close.
func (s *Service) Stop() { s.health.stopping.Store(true) }

var errNoLook = errors.New("kms: the token or the database does not come back")

// Health looks at what the service cannot work without: the main token, the database and
// a log that takes entries; and at each token beside the main one. It looks at most once
// in healthFor, and does not wait for a token that hangs.
func (s *Service) Health(ctx context.Context) Health {
	h := s.lately(ctx)
	if s.health.stopping.Load() {
		h.Err = ErrStopping
	}
	return h
}

// lately returns the newest look, or a new one.
func (s *Service) lately(ctx context.Context) Health {
	h := &s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.at.IsZero() && time.Since(h.at) < healthFor {
		return h.last
	}
	if h.looking == nil {
		looking := make(chan Health, 1)
		h.looking = looking
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
			defer cancel()
			looking <- s.look(ctx)
		}()
	}
	select {
	case h.last = <-h.looking:
		h.looking = nil
	case <-time.After(healthTimeout + healthFor):
		h.last = Health{Sealed: []Sealed{HSMDown}, Err: errNoLook}
	}
	h.at = time.Now()
	return h.last
}

func (s *Service) look(ctx context.Context) (h Health) {
	h.Tokens = make([]TokenState, len(s.cfg.Tokens))
	var further sync.WaitGroup
	for i, name := range s.cfg.Tokens { // at once: one that hangs says nothing about another
		further.Go(func() { h.Tokens[i] = TokenState{Name: name, Err: s.tokenReady(ctx, name)} })
	}
	found := func(err error, otherwise Sealed) {
		if err == nil {
			return
		}
		h.Err = errors.Join(h.Err, err)
		state := SealedBy(err)
		if state == "" {
			state = otherwise
		}
		h.Sealed = append(h.Sealed, state)
	}
	for _, err := range s.cfg.Log.Refusals() {
		found(err, DatabaseDown)
	}
	err := s.tokenReady(ctx, "")
	if err == nil { // everything that the service does ends with a MAC of the log
		_, err = s.cfg.Token.MAC(ctx, s.cfg.Pseudonym, []byte("ready"))
	}
	found(err, HSMDown)
	if s.cfg.Log.Ready() == nil { // else its answer is known
		found(s.cfg.Log.View(ctx, func(store.Rows) error { return nil }), DatabaseDown)
	}
	further.Wait()
	return h
}

func (s *Service) tokenReady(ctx context.Context, name string) error {
	t, err := s.holder(name)
	if err != nil {
		return err
	}
	return t.Ready(ctx)
}
