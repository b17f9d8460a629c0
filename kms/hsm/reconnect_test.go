package hsm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm"
)

// TestHandleReuse is T5b: at least 10 000 operations of 8 goroutines (on
// SoftHSM2) while the library is finalised and initialised again and again, with
// new keys made in between, so that old handle numbers belong to other keys. No
// operation may fail, and none may run under a wrong key.
func TestHandleReuse(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Logger = quiet }, func(t *testing.T, tok *hsm.Token) {
		rounds := int(fewer(tok, 25, 10))
		w := newWorkload(t, tok, int(fewer(tok, 32, 8)))
		var done atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			defer done.Store(true)
			for round := range rounds {
				if err := tok.Reinitialise(); err != nil {
					t.Errorf("connecting again: %v", err)
				}
				// Another key first: it takes the handle numbers of those before.
				if _, err := tok.Generate(ctx, fmt.Sprintf("%s/new %d", t.Name(), round), key.AES128, derive.Static); err != nil {
					t.Errorf("a new key: %v", err)
				}
				// Let the table fill again before the next time.
				for n := range 20 {
					if err := w.one(tok, 17*round+n); err != nil {
						t.Error(err)
					}
				}
			}
		})
		ran, failed := w.run(t, tok, 8, fewer(tok, 10000, 1500), done.Load)
		wg.Wait()
		t.Logf("%d operations, %d re-initialisations, %d failed", ran, rounds, failed)
		if failed != 0 {
			t.Errorf("%d operations failed", failed)
		}
	})
}

// TestCreateWhileServing makes token objects while others search and use them.
// SoftHSM2 2.6.1 fails C_GenerateKey with CKR_GENERAL_ERROR when another session
// searches at the same time (its issue 573); the adapter keeps the two apart.
func TestCreateWhileServing(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Logger = quiet }, func(t *testing.T, tok *hsm.Token) {
		w := newWorkload(t, tok, 8)
		unknown := derive.Root{Label: "nobody", Algorithm: key.AES128, Class: derive.Static}
		var done atomic.Bool
		var wg sync.WaitGroup
		for worker := range 6 {
			wg.Go(func() {
				for n := 0; !done.Load(); n++ {
					if fault.CodeOf(tok.Check(ctx, unknown)) != fault.KeyState {
						t.Errorf("an unknown root: %v", tok.Check(ctx, unknown))
					}
					if err := w.one(tok, 8*n+worker%3); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range 60 {
			label := fmt.Sprintf("%s/%d", t.Name(), i)
			if _, err := tok.Generate(ctx, label, key.AES256, derive.Static); err != nil {
				t.Errorf("making key %d: %v", i, err)
			}
		}
		if _, err := tok.GenerateSigning(ctx, t.Name()+"/sign", key.P256); err != nil {
			t.Error(err)
		}
		done.Store(true)
		wg.Wait()
	})
}

// TestLostSessions takes sessions away in every way that a token can; each time
// the next operations succeed, with the right keys, and nothing leaks.
func TestLostSessions(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Logger, c.Sessions = quiet, 3 }, func(t *testing.T, tok *hsm.Token) {
		w := newWorkload(t, tok, 8)
		all := func(when string) {
			t.Helper()
			for n := range 64 {
				if err := w.one(tok, n); err != nil {
					t.Errorf("%s, operation %d: %v", when, n, err)
				}
			}
		}
		all("before")
		for round := range 3 {
			if err := tok.SpoilSessions(w.macs[0]); err != nil {
				t.Fatal(err)
			}
			all("after operations were left active")
			tok.CloseOwners()
			all("after the owners' sessions were closed")
			tok.ForgiveLoss()
			if err := tok.LoseSessions(); err != nil {
				t.Fatal(err)
			}
			all(fmt.Sprint("after every session was closed, time ", round))
			if err := tok.Reinitialise(); err != nil {
				t.Fatal(err)
			}
			all("after a new start")
		}
		settled(t, tok, -1)
	})
}

// TestTokenGone takes SoftHSM2's token directory away: everything answers
// token_unavailable, and after it is back the service heals without help.
func TestTokenGone(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg := softHSM(t)
	tok := openToken(t, cfg)
	w := newWorkload(t, tok, 4)
	dir := filepath.Join(filepath.Dir(os.Getenv(softhsm.ConfVariable)), "tokens")
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "connecting without the token", tok.Reinitialise(), fault.TokenUnavailable)
	for n := range 20 {
		wantCode(t, "without the token", w.one(tok, n), fault.TokenUnavailable)
		if n%5 == 0 {
			tok.ForgiveLoss() // another attempt, which fails as well
		}
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	tok.ForgiveLoss()
	for n := range 40 {
		if err := w.one(tok, n); err != nil {
			t.Errorf("after the token came back: %v", err)
		}
	}
}

// TestPanic: a panic of an operation is its caller's error; no session and no lock is lost.
func TestPanic(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Sessions, c.Logger = 1, quiet }, func(t *testing.T, tok *hsm.Token) {
		for range 3 {
			operation, alone := tok.Panic(ctx)
			if operation == nil || alone == nil {
				t.Errorf("a panic was lost: %v, %v", operation, alone)
			}
		}
		if err := tok.Ready(ctx); err != nil {
			t.Error(err)
		}
	})
}
