package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"cardkms/kms/store"
)

// Failure says how one Update fails.
type Failure string

// The two ways in which a write can fail. A caller that handles one and not the
// other loses or repeats something.
const (
	// NotApplied: nothing happened, and Update returns ErrInjected.
	NotApplied Failure = "not applied"
	// AnswerLost: everything is durable, and Update returns store.ErrUnknown.
	AnswerLost Failure = "applied, answer lost"
)

// ErrInjected is the cause of a failure that a test asked for.
var ErrInjected = errors.New("storetest: injected failure")

// Faulty is a Store one of whose Updates fails. It is safe for concurrent use.
type Faulty struct {
	store.Store
	mu      sync.Mutex
	updates int // started so far; guarded by mu
	at      int // number of the Update that fails, from 1; 0 means none; guarded by mu
	failure Failure
	fired   bool // guarded by mu
}

// NewFaulty returns a Store on top of s without a failure.
func NewFaulty(s store.Store) *Faulty { return &Faulty{Store: s} }

// Fail has the n-th Update from now on, counted from 1, fail once.
func (f *Faulty) Fail(n int, failure Failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.failure, f.fired = f.updates+n, failure, false
}

// Fired reports whether the failure happened.
func (f *Faulty) Fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Updates returns the number of Updates so far.
func (f *Faulty) Updates() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.updates
}

func (f *Faulty) next() (Failure, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.updates++
	hit := f.updates == f.at
	f.fired = f.fired || hit
	return f.failure, hit
}

// Update runs g, and fails if its turn has come.
func (f *Faulty) Update(ctx context.Context, g func(store.Tx) error) error {
	failure, hit := f.next()
	switch {
	case !hit:
		return f.Store.Update(ctx, g)
	case failure == AnswerLost:
		if err := f.Store.Update(ctx, g); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", store.ErrUnknown, ErrInjected)
	}
	// The function runs, as it does before a commit that fails.
	return f.Store.Update(ctx, func(tx store.Tx) error { return errors.Join(g(tx), ErrInjected) })
}

// TwoWay runs test once for every Update that it makes and each way in which
// that Update can fail. test gets a fresh Faulty with the failure set on a
// database of its own, and must check what holds afterwards.
func TwoWay(t *testing.T, open Open, test func(t *testing.T, s *Faulty, failure Failure)) {
	for _, failure := range []Failure{NotApplied, AnswerLost} {
		for n, fired := 1, true; fired; n++ {
			t.Run(fmt.Sprintf("%s/update %d", failure, n), func(t *testing.T) {
				f := NewFaulty(open(t, t.TempDir()))
				t.Cleanup(func() {
					if err := f.Close(); err != nil {
						t.Errorf("closing: %v", err)
					}
				})
				f.Fail(n, failure)
				test(t, f, failure)
				fired = f.Fired() && !t.Failed()
			})
		}
	}
}
