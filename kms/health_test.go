package kms_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
)

// brokenViews is a database that can be written and not read.
type brokenViews struct {
	store.Store
	err error
}

func (b *brokenViews) View(ctx context.Context, f func(store.Tx) error) error {
	if b.err != nil {
		return b.err
	}
	return b.Store.View(ctx, f)
}

// health looks anew, in a process whose last look is over.
func (h *harness) health() kms.Health {
	h.t.Helper()
	h.service.ForgetHealth()
	return h.service.Health(h.ctx)
}

// TestHealth: each sealed state is named while it lasts, and not afterwards.
func TestHealth(t *testing.T) {
	var db *brokenViews
	h := newHarness(t)
	h.stop()
	h.openStore(func(s store.Store) store.Store { db = &brokenViews{Store: s}; return db })
	h.start()
	if got := h.health(); !got.Ready() || len(got.Sealed) != 0 {
		t.Fatalf("at first: %+v", got)
	}
	db.err = errors.New("the database is away")
	if got := h.health(); !slices.Equal(got.Sealed, []kms.Sealed{kms.DatabaseDown}) || got.Ready() {
		t.Errorf("without a database: %+v", got)
	}
	db.err = nil
	h.advance(-60e9)
	if got := h.health(); !slices.Equal(got.Sealed, []kms.Sealed{kms.ClockUnsafe}) {
		t.Errorf("a minute earlier: %+v", got)
	}
	_, err := h.authenticate(h.card(1))
	h.want("a minute earlier", err, fault.ClockUnsafe)
	h.advance(60e9)
	if got := h.health(); !got.Ready() {
		t.Errorf("at last: %+v", got)
	}
}

// refusedPIN is what package hsm says of one.
type refusedPIN struct{ error }

func (refusedPIN) PINRefused() bool { return true }

func TestSealedBy(t *testing.T) {
	tests := map[kms.Sealed]error{
		kms.HSMDown:          fmt.Errorf("looking: %w", fault.New(fault.TokenUnavailable, "lost")),
		kms.VaultUnavailable: fault.New(fault.VaultUnavailable, "the service waits"),
		kms.PINRefused:       fault.Because(fault.TokenUnavailable, "the token refused its PIN", refusedPIN{errors.New("CKR_PIN_INCORRECT")}),
		kms.AuditFull:        fault.New(fault.AuditFull, ""),
		kms.RollbackDetected: fmt.Errorf("opening: %w", &ledger.Violation{What: "is older"}),
		kms.ClockUnsafe:      fault.New(fault.ClockUnsafe, ""),
		"":                   fault.New(fault.Conflict, ""),
	}
	for want, err := range tests {
		if got := kms.SealedBy(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	for _, s := range kms.SealedStates() {
		if tests[s] == nil && s != kms.DatabaseDown {
			t.Errorf("%s has no error in this test", s)
		}
	}
}
