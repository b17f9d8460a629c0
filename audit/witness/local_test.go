package witness

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
)

var errAway = errors.New("away")

// elsewhere is a memory and a signer outside the process, which fail in two ways.
type elsewhere struct {
	kept    []byte
	refuses bool // the write is not applied
	loses   bool // the write is applied and its answer lost
	mute    bool // the signer is away
}

func (e *elsewhere) Last(string) ([]byte, error) { return e.kept, nil }
func (e *elsewhere) Close() error                { return nil }

func (e *elsewhere) Remember(_ string, msg []byte) error {
	if e.refuses {
		return errAway
	}
	e.kept = msg
	if e.loses {
		return errAway
	}
	return nil
}

func (e *elsewhere) sign(message []byte) ([]byte, error) {
	if e.mute {
		return nil, errAway
	}
	return ed25519.Sign(witnessKey, message), nil
}

func (h *history) local(e *elsewhere) *Local {
	h.t.Helper()
	signer, err := audit.NewRemoteCosigner(name, witnessKey.Public().(ed25519.PublicKey), func() time.Time { return now }, e.sign)
	if err != nil {
		h.t.Fatal(err)
	}
	log, err := audit.VerifierKey(origin, logKey.Public().(ed25519.PublicKey))
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := NewServer(Config{Memory: e, Signer: signer, Logs: []note.Verifier{newVerifier(h.t, log)}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		h.t.Fatal(err)
	}
	return &Local{Server: s, Verifier: newVerifier(h.t, witnessVkey(h.t))}
}

// TestLocal: a witness in this process says what one behind HTTP says, and nothing leaves
// it that its memory or its key did not take part in.
func TestLocal(t *testing.T) {
	h, e := newHistory(t, origin, 20, 99), &elsewhere{}
	l := h.local(e)
	ask := func(h *history, from, to int64) error {
		_, err := l.Cosign(context.Background(), from, h.proof(from, to), h.checkpoint(to))
		return err
	}
	msg, err := l.Cosign(context.Background(), 0, nil, h.checkpoint(5))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := audit.CosignatureTime(msg, l.Verifier); err != nil || !at.Equal(now) {
		t.Errorf("cosigned at %v, %v", at, err)
	}
	var size *SizeError
	if err := ask(h, 3, 8); !errors.As(err, &size) || size.Size != 5 {
		t.Errorf("from another size: %v", err)
	}
	if err := ask(newHistory(t, origin, 20, 2), 5, 8); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a fork: %v", err)
	}
	if err := ask(newHistory(t, "other.example/log", 20, 99), 0, 8); !errors.Is(err, ErrUnknownLog) {
		t.Errorf("another log: %v", err)
	}
	for _, f := range []struct {
		way   *bool
		stays int64
	}{{&e.mute, 5}, {&e.refuses, 5}, {&e.loses, 8}} {
		*f.way = true
		if err := ask(h, 5, 8); !errors.Is(err, errAway) {
			t.Errorf("a failure: %v", err)
		}
		*f.way = false
		err := ask(h, f.stays, 8)
		if f.stays == 5 {
			e.kept = h.checkpoint(5)
		}
		if err != nil {
			t.Errorf("after it: %v", err)
		}
	}
	l = h.local(e) // another process
	if err := ask(h, 5, 9); !errors.As(err, &size) || size.Size != 8 {
		t.Errorf("after a restart: %v", err)
	}
}
