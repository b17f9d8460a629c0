package tokens_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/tokens"
)

// plain is a token over plain keys that can be lost.
type plain struct {
	derivetest.Token
	lost     error
	released int
	closed   bool
}

func (p *plain) Random(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil }
func (p *plain) Ready(context.Context) error                     { return p.lost }
func (p *plain) Close()                                          { p.closed = true }
func (p *plain) Release(k ...*derive.Key)                        { p.released += len(k) }

var ctx = context.Background()

// world is a set of a main token and the further ones a and b, whose openers the test
// decides about.
type world struct {
	set        *tokens.Set[*plain]
	main, a, b *plain
	calls      int
	final      bool
	err        error // of opening b
	now        time.Time
	log        bytes.Buffer
}

func newWorld() *world {
	w := &world{main: &plain{}, a: &plain{}, b: &plain{}, now: time.Unix(1e9, 0)}
	w.set = tokens.New(w.main, map[string]tokens.Opener[*plain]{
		"a": func(context.Context) (*plain, bool, error) { return w.a, false, nil },
		"b": func(context.Context) (*plain, bool, error) { w.calls++; return w.b, w.final, w.err },
	}, func() time.Time { return w.now }, slog.New(slog.NewTextHandler(&w.log, nil)))
	return w
}

func root(p *plain, token string, c derive.Class) *derive.Key {
	p.Add("k", key.AES128, c, bytes.Repeat([]byte{byte(len(token) + 1)}, 16))
	return derive.FromRoot(derive.Root{Token: token, Label: "k", Algorithm: key.AES128, Class: c})
}

func wantCode(t *testing.T, what string, err error, want fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// TestEachKeyInItsToken: equal labels in two tokens are two keys, and nobody else is asked.
func TestEachKeyInItsToken(t *testing.T) {
	w := newWorld()
	w.set.Tend(ctx)
	inMain, inA := root(w.main, "", derive.SessionMAC), root(w.a, "a", derive.SessionMAC)
	if inMain.ID() == inA.ID() {
		t.Error("one recipe for keys of two tokens")
	}
	first, err := w.set.MAC(ctx, inMain, []byte("m"))
	wantCode(t, "the main token", err, fault.OK)
	second, err := w.set.MAC(ctx, inA, []byte("m"))
	wantCode(t, "token a", err, fault.OK)
	if bytes.Equal(first, second) || w.main.Calls != 1 || w.a.Calls != 1 || w.b.Calls != 0 {
		t.Errorf("%X and %X after %d, %d and %d calls", first, second, w.main.Calls, w.a.Calls, w.b.Calls)
	}
	w.set.Release(inMain, nil, inA, inA, root(w.main, "unknown", derive.SessionMAC))
	if w.main.released != 1 || w.a.released != 2 {
		t.Errorf("%d and %d keys were released", w.main.released, w.a.released)
	}
	_, err = w.set.MAC(ctx, root(w.main, "unknown", derive.SessionMAC), nil)
	wantCode(t, "a token that the configuration does not have", err, fault.TokenUnavailable)
}

// TestNoKeyLeavesItsToken: two keys of two tokens are refused before either is asked.
func TestNoKeyLeavesItsToken(t *testing.T) {
	w := newWorld()
	w.set.Tend(ctx)
	_, err := w.set.Wrap(ctx, root(w.main, "", derive.DataEncryption), root(w.a, "a", derive.Static))
	wantCode(t, "wrapping across tokens", err, fault.TokenUnable)
	_, err = w.set.RetailMAC(ctx, derive.RetailFromRoots(root(w.a, "a", derive.SessionRetail), root(w.main, "", derive.SessionRetailLeft)), make([]byte, 8))
	wantCode(t, "a retail MAC across tokens", err, fault.TokenUnable)
	if w.main.Calls+w.a.Calls != 0 {
		t.Error("a token was asked")
	}
	_, err = w.set.Wrap(ctx, root(w.a, "a", derive.DataEncryption), root(w.a, "a", derive.Static))
	wantCode(t, "wrapping in one token", err, fault.OK)
}

// TestAgreement: a pair is made in the token that is named, and two secrets of one agreement
// are in one token.
func TestAgreement(t *testing.T) {
	w := newWorld()
	w.set.Tend(ctx)
	inMain, public, err := w.set.Ephemeral(ctx, "")
	wantCode(t, "a pair in the main token", err, fault.OK)
	inA, _, err := w.set.Ephemeral(ctx, "a")
	wantCode(t, "a pair in token a", err, fault.OK)
	if inMain.Token() != "" || inA.Token() != "a" {
		t.Errorf("the pairs are in %q and %q", inMain.Token(), inA.Token())
	}
	_, _, err = w.set.Ephemeral(ctx, "unknown")
	wantCode(t, "a pair in a token that is not there", err, fault.TokenUnavailable)
	peers := [2]*ecdh.PublicKey{public, public}
	_, err = w.set.Agree(ctx, [2]*derive.Key{inMain, inA}, peers)
	wantCode(t, "an agreement across tokens", err, fault.TokenUnable)
	z, err := w.set.Agree(ctx, [2]*derive.Key{inA, inA}, peers)
	wantCode(t, "an agreement in one token", err, fault.OK)
	if z.Token() != "a" {
		t.Errorf("the secret is in %q", z.Token())
	}
}

// TestMissingToken is tried again at intervals that grow, and serves as soon as it opens.
func TestMissingToken(t *testing.T) {
	w := newWorld()
	w.err = errors.New("not there")
	k := root(w.b, "b", derive.SessionMAC)
	var waited []time.Duration
	since := w.now
	for range 2000 {
		before := w.calls
		if w.set.Tend(ctx); w.calls > before {
			waited, since = append(waited, w.now.Sub(since)), w.now
			_, err := w.set.MAC(ctx, k, nil)
			wantCode(t, "while it is away", err, fault.TokenUnavailable)
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	if len(waited) < 5 || waited[1] != tokens.RetryMin || waited[2] != 2*tokens.RetryMin || waited[len(waited)-1] != tokens.RetryMax {
		t.Errorf("it was tried after %v", waited)
	}
	if n := strings.Count(w.log.String(), "does not serve"); n != 1 {
		t.Errorf("the log tells %d times", n)
	}
	w.err = nil
	w.now = w.now.Add(tokens.RetryMax)
	w.set.Tend(ctx)
	_, err := w.set.MAC(ctx, k, nil)
	wantCode(t, "when it is there", err, fault.OK)
	calls := w.calls
	w.b.lost = fault.New(fault.TokenUnavailable, "lost")
	w.set.Tend(ctx)
	w.b.lost = nil
	w.set.Tend(ctx)
	if n := strings.Count(w.log.String(), "msg=\"a token serves\" token=b"); w.calls != calls || n != 2 {
		t.Errorf("a token that is open was opened again, or the log tells %d times that it serves", n)
	}
}

// TestFinal: what must not be tried again is not, and the caller hears why.
func TestFinal(t *testing.T) {
	w := newWorld()
	w.final, w.err = true, fault.New(fault.TokenUnavailable, "the token refused its PIN")
	for range 100 {
		w.set.Tend(ctx)
		w.now = w.now.Add(time.Hour)
	}
	if w.calls != 1 {
		t.Errorf("it was opened %d times", w.calls)
	}
	_, err := w.set.Get("b")
	wantCode(t, "afterwards", err, fault.TokenUnavailable)
	if !strings.Contains(err.Error(), "refused its PIN") {
		t.Error(err)
	}
	w.set.Close()
	if !w.main.closed || !w.a.closed || w.b.closed {
		t.Error("the tokens that are open were not closed, or another one was")
	}
	w.set.Tend(ctx)
	if _, err := w.set.Get("a"); err == nil {
		t.Error("a closed set opened a token")
	}
}
