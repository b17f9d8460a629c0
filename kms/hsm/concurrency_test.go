package hsm_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// workload is a set of keys whose every answer the oracle knows.
type workload struct {
	soft      *derivetest.Token
	macs      []*derive.Key
	encs      []*derive.Key
	macAnswer map[*derive.Key][]byte // CMAC over message
	encAnswer map[*derive.Key][]byte // CBC over block
}

var message = bytes.Repeat([]byte("message "), 7)
var block = []byte("two whole blocks of public text.")

// newWorkload derives count pairs of keys from two masters of each AES size.
func newWorkload(t testing.TB, tok *hsm.Token, count int) *workload {
	t.Helper()
	w := &workload{soft: new(derivetest.Token), macAnswer: map[*derive.Key][]byte{}, encAnswer: map[*derive.Key][]byte{}}
	var masters []*derive.Key
	for i, a := range []key.Algorithm{key.AES128, key.AES256, key.AES128, key.AES192} {
		masters = append(masters, importRoot(t, tok, w.soft, fmt.Sprint("master ", i), a, derive.Static))
	}
	for i := range count {
		m := masters[i%len(masters)]
		mac := cardKey(t, m, i, diversify.MAC, derive.SessionMAC)
		enc := cardKey(t, cardKey(t, m, i, diversify.ENC, derive.Static), i, diversify.ENC, derive.SessionENC)
		w.macs, w.encs = append(w.macs, mac), append(w.encs, enc)
		w.macAnswer[mac], _ = w.soft.MAC(ctx, mac, message)
		w.encAnswer[enc], _ = w.soft.Encrypt(ctx, enc, block)
	}
	return w
}

// one runs one operation chosen by n and compares its result.
func (w *workload) one(tok *hsm.Token, n int) error {
	i := n / 4 % len(w.macs)
	switch mac, enc := w.macs[i], w.encs[i]; n % 4 {
	case 0, 1:
		got, err := tok.MAC(ctx, mac, message)
		return differs("MAC", got, err, w.macAnswer[mac])
	case 2:
		got, err := tok.Encrypt(ctx, enc, block)
		return differs("Encrypt", got, err, w.encAnswer[enc])
	default:
		got, err := tok.Decrypt(ctx, enc, make([]byte, 16), w.encAnswer[enc])
		if n%8 == 3 {
			tok.Release(mac, enc, enc.Parent())
		}
		return differs("Decrypt", got, err, block)
	}
}

func differs(what string, got []byte, err error, want []byte) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s under a WRONG KEY: %X, want %X", what, got, want)
	}
	return nil
}

// run starts workers that run operations until total are done and may says so,
// and returns how many ran and how many failed. The order of a worker's
// operations is the same each time.
func (w *workload) run(t *testing.T, tok *hsm.Token, workers int, total int64, may func() bool) (ran, failed int64) {
	var done, bad atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 20260727))
			for done.Add(1) <= total || !may() {
				if err := w.one(tok, r.IntN(1<<20)); err != nil && bad.Add(1) <= 5 {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return done.Load() - int64(workers), bad.Load()
}

func always() bool { return true }

// fewer is a count of operations for a kind of token: NSS decrypts a token key
// from its database, by a slow password-based derivation, whenever it is used.
func fewer(tok *hsm.Token, softhsm, nss int64) int64 {
	if tok.Native() {
		return nss
	}
	return softhsm
}

// TestConcurrency: many goroutines on shared keys, with keys released under each
// other's hands.
func TestConcurrency(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		w := newWorkload(t, tok, 24)
		if ran, failed := w.run(t, tok, 24, fewer(tok, 4000, 800), always); failed != 0 {
			t.Errorf("%d of %d operations failed", failed, ran)
		}
		tok.Release(w.macs...)
		for _, k := range w.encs {
			tok.Release(k, k.Parent())
		}
		settled(t, tok, 0)
	})
}

// settled waits until the token holds what the table says: what left the table is
// destroyed behind the callers' backs.
func settled(t *testing.T, tok *hsm.Token, want int) {
	t.Helper()
	tok.Release() // sweeps what the last operations left
	eventually(t, "what the table says is in the token", func() error {
		inToken, err := tok.SessionObjects()
		if live := tok.LiveObjects(); err == nil && (live != inToken || want >= 0 && live != want) {
			err = fmt.Errorf("the table says %d objects, the token holds %d, want %d", live, inToken, want)
		}
		return err
	})
}

// TestBound: with room for 6 objects, hundreds of keys are used by 8 goroutines;
// the results are right, and the token never holds more than the room and what
// is in use at once: each of 8 sessions holds a key, its base and one being made.
func TestBound(t *testing.T) {
	const room, sessions = 6, 8
	ownTokens(t, func(c *hsm.Config) { c.Objects, c.Sessions, c.Logger = room, sessions, quiet }, func(t *testing.T, tok *hsm.Token) {
		w := newWorkload(t, tok, 100)
		stop := make(chan struct{})
		var most int
		var watch sync.WaitGroup
		watch.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					most = max(most, tok.LiveObjects())
				}
			}
		})
		_, failed := w.run(t, tok, 16, fewer(tok, 1500, 200), always)
		close(stop)
		watch.Wait()
		if failed != 0 || most > room+3*sessions || most == 0 {
			t.Errorf("%d operations failed; at most %d objects were alive", failed, most)
		}
		// One more key after all is quiet makes room down to the bound.
		if err := w.one(tok, 4*99); err != nil {
			t.Error(err)
		}
		if n := tok.LiveObjects(); n > room {
			t.Errorf("%d objects stay, there is room for %d", n, room)
		}
		settled(t, tok, -1)
	})
}

// TestReleaseDestroys: the objects of released keys are gone from the token, not
// only from the table, and a released key works again.
func TestReleaseDestroys(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Logger = quiet }, func(t *testing.T, tok *hsm.Token) {
		settled(t, tok, 0)
		w := newWorkload(t, tok, 10)
		for n := range 40 {
			if err := w.one(tok, n); err != nil && n%8 != 3 {
				t.Error(err)
			}
		}
		for range 2 {
			for _, k := range w.macs {
				if got, err := tok.MAC(ctx, k, message); differs("", got, err, w.macAnswer[k]) != nil {
					t.Error(err)
				}
			}
			for _, k := range w.encs {
				tok.Release(k, k.Parent())
			}
			settled(t, tok, len(w.macs))
			tok.Release(append(w.macs, nil)...)
			settled(t, tok, 0)
		}
	})
}
