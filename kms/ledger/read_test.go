package ledger

import (
	"context"
	"errors"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"

	"golang.org/x/mod/sumdb/note"
)

func TestProofs(t *testing.T) {
	ctx := context.Background()
	l := mustOpen(t, config(t, newStore(t)))
	var older audit.Checkpoint
	for i := range 11 {
		mustDo(t, l, mark("p"+string(rune('a'+i))))
		newer := opened(t, l)
		p, err := l.ConsistencyProof(ctx, older.Size, newer.Size)
		if err != nil {
			t.Fatal(err)
		}
		if older.Size > 0 {
			if err := audit.CheckGrowth(p, newer, older); err != nil {
				t.Errorf("%d to %d: %v", older.Size, newer.Size, err)
			}
		}
		older = newer
	}
	leaves, err := l.Leaves(ctx, 0, 100)
	if err != nil || len(leaves) != 11 {
		t.Fatalf("%d leaves, %v", len(leaves), err)
	}
	for i, leaf := range leaves {
		p, err := l.InclusionProof(ctx, int64(i), 11)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckEntry(p, older, int64(i), leaf); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}

func opened(t *testing.T, l *Ledger) audit.Checkpoint {
	t.Helper()
	msg, err := l.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.OpenCheckpoint(msg, origin, l.cfg.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReadsRefuse(t *testing.T) {
	ctx := context.Background()
	l := mustOpen(t, config(t, newStore(t)))
	marks(t, l, 3)
	errs := map[string]error{}
	_, errs["negative from"] = l.Entries(ctx, -1, 1)
	_, errs["negative limit"] = l.Leaves(ctx, 0, -1)
	_, errs["entry beyond size"] = l.InclusionProof(ctx, 3, 3)
	_, errs["size beyond log"] = l.InclusionProof(ctx, 0, 4)
	_, errs["shrinking"] = l.ConsistencyProof(ctx, 3, 2)
	_, errs["growth beyond log"] = l.ConsistencyProof(ctx, 3, 4)
	for name, err := range errs {
		if fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, from := range []int64{3, 1 << 40} {
		if entries, err := l.Entries(ctx, from, 10); err != nil || len(entries) != 0 {
			t.Errorf("entries from %d: %v, %v", from, entries, err)
		}
	}
}

// countingSigner counts signatures, and fails while broken is set.
type countingSigner struct {
	note.Signer
	count  int
	broken bool
}

var errToken = errors.New("token lost")

func (s *countingSigner) Sign(msg []byte) ([]byte, error) {
	s.count++
	if s.broken {
		return nil, errToken
	}
	return s.Signer.Sign(msg)
}

func TestCheckpointSignsOnlyGrowth(t *testing.T) {
	cfg := config(t, newStore(t))
	signer := &countingSigner{Signer: cfg.Signer}
	cfg.Signer = signer
	l := mustOpen(t, cfg)
	if c := opened(t, l); c.Size != 0 || signer.count != 1 {
		t.Errorf("an empty log was signed %d times at size %d", signer.count, c.Size)
	}
	marks(t, l, 3)
	for range 3 {
		if c := opened(t, l); c.Size != 3 || signer.count != 2 {
			t.Errorf("signed %d times, size %d", signer.count, c.Size)
		}
	}
}

// TestTokenLost: entries go on, checkpoints fail, and come back by themselves.
func TestTokenLost(t *testing.T) {
	ctx := context.Background()
	cfg := config(t, newStore(t))
	signer := &countingSigner{Signer: cfg.Signer}
	cfg.Signer = signer
	l := mustOpen(t, cfg)
	signer.broken = true
	marks(t, l, 2)
	if _, err := l.Checkpoint(ctx); !errors.Is(err, errToken) {
		t.Errorf("Checkpoint = %v", err)
	}
	signer.broken = false
	if c := opened(t, l); c.Size != 2 {
		t.Errorf("checkpoint of %d entries", c.Size)
	}
}

// TestSignsByItself waits for the regular checkpoint, however long it takes.
func TestSignsByItself(t *testing.T) {
	s := newStore(t)
	cfg := config(t, s)
	cfg.CheckpointEvery = time.Millisecond
	l := mustOpen(t, cfg)
	mustDo(t, l, mark("r0"))
	for s.Updates() < 3 { // the empty log's checkpoint, the entry, the entry's checkpoint
		time.Sleep(time.Millisecond)
	}
}

func TestOpenRefusesAnIncompleteConfig(t *testing.T) {
	for _, forget := range []func(*Config){
		func(c *Config) { c.Store = nil }, func(c *Config) { c.Signer = nil },
		func(c *Config) { c.Verifier = nil }, func(c *Config) { c.Origin = "" },
	} {
		cfg := config(t, newStore(t))
		forget(&cfg)
		if _, err := Open(context.Background(), cfg); err == nil {
			t.Errorf("opened with %+v", cfg)
		}
	}
}

// TestOpenRefusesAnotherVerifier: signing with a key that the verifier does not
// know would make a log that nobody can open.
func TestOpenRefusesAnotherVerifier(t *testing.T) {
	cfg := config(t, newStore(t))
	cfg.Verifier = configFor(t, cfg.Store, otherKey).Verifier
	if _, err := Open(context.Background(), cfg); !errors.Is(err, audit.ErrSignature) {
		t.Errorf("Open = %v", err)
	}
}
