package vault_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"cardkms/kms/vault"

	"github.com/hashicorp/vault/api"
)

// TestPeriodic: a periodic token is renewed and never replaced.
func TestPeriodic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.role(map[string]any{"token_period": "6s"})
	w.open()
	before := w.client.Expires()
	w.until("three lives are over", func() bool { return w.client.Expires().Sub(before) > 18*time.Second })
	w.reads()
	if n := w.logins(); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// TestMaxTTL: a token that may not live longer is replaced before its end, with the same
// secret id, and no call fails meanwhile.
func TestMaxTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.role(map[string]any{"token_period": 0, "token_ttl": "4s", "token_max_ttl": "6s"})
	w.open()
	w.until("three logins", func() bool { w.reads(); return w.logins() >= 3 })
	if w.client.Failing() != nil {
		t.Error(w.client.Failing())
	}
}

// TestRevoked: a call with a dead token logs in once and succeeds; so does the look at it
// in the background.
func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.open()
	w.Revoke()
	w.reads()
	w.reads()
	if n := w.logins(); n != 2 {
		t.Errorf("%d logins after one revocation", n)
	}
	w.Revoke()
	w.until("the background notices", func() bool { return w.logins() == 3 })
	w.reads()
}

// TestPolicy: what the policies refuse is refused, and no reason to log in again.
func TestPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.open()
	for range 3 {
		_, _, err := w.client.Read(context.Background(), vault.Ref{Mount: "kv", Path: "cardkms/so", Field: "pin"})
		var e *api.ResponseError
		if !errors.As(err, &e) || e.StatusCode != http.StatusForbidden {
			t.Fatalf("the SO PIN: %v", err)
		}
	}
	if n := w.logins(); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// TestDown: while Vault is away calls fail and say so; when it comes back before the
// token's end, the token serves on, and afterwards the client logs in again.
func TestDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.role(map[string]any{"token_period": "15s"})
	w.open()
	w.Kill()
	w.until("the client notices", func() bool { return w.client.Failing() != nil })
	w.Start()
	w.until("the client recovers", func() bool { return w.client.Failing() == nil })
	w.reads()
	if n := w.logins(); n != 1 {
		t.Errorf("%d logins, though the token lived", n)
	}
	w.Kill()
	w.until("the token ends", func() bool { return time.Now().After(w.client.Expires()) })
	w.Start()
	w.until("a second login", func() bool { return w.client.Failing() == nil && w.logins() == 2 })
	w.reads()
}

func TestSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	w.role(map[string]any{"token_period": "4s"})
	w.open()
	w.Seal()
	if err := w.read(); err == nil {
		t.Error("a sealed Vault answers")
	}
	w.Unseal()
	w.until("it recovers", func() bool { return w.read() == nil })
}

// TestSlow: a Vault that hangs, or whose answers take for ever, holds nobody for ever.
func TestSlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	p := w.Proxy()
	w.cfg.Address = p.URL()
	w.open()
	p.Slow(time.Hour)
	if err := w.read(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow answers: %v", err)
	}
	p.Down()
	if err := w.read(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no connection: %v", err)
	}
	p.Quick()
	p.Up()
	w.until("it recovers", func() bool { return w.read() == nil })
	w.Hang()
	err := w.read()
	w.Resume()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a Vault that hangs: %v", err)
	}
	w.until("it recovers again", func() bool { return w.read() == nil })
}

func TestBackOff(t *testing.T) {
	var b vault.BackOff
	for _, most := range []time.Duration{500, 1000, 2000, 4000, 8000, 16000, 30000, 30000} {
		most *= time.Millisecond
		if got := b.Next(); got < most/2 || got > most {
			t.Errorf("%s, want between %s and %s", got, most/2, most)
		}
	}
}
