package ledger

import (
	"context"
	"errors"
	"sync"
	"testing"

	"cardkms/audit"
	"cardkms/kms/store"
	"cardkms/kms/store/storetest"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"pgregory.net/rapid"
)

var errOwn = errors.New("the change's own error")

// TestAnyInterleaving draws callers, failing changes, failing commits, restarts
// and checkpoints, and compares what remains with a tree that
// transparency-dev/merkle computes from the acknowledged entries.
func TestAnyInterleaving(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := storetest.NewFaulty(openDir(t, t.TempDir()))
		defer func() {
			if err := s.Close(); err != nil {
				rt.Error(err)
			}
		}()
		l, err := Open(context.Background(), config(t, s))
		if err != nil {
			rt.Fatal(err)
		}
		acked := make(map[int64]string)
		for round := range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			if rapid.Bool().Draw(rt, "a commit fails") {
				s.Fail(rapid.IntRange(1, 3).Draw(rt, "which"), rapid.SampledFrom([]storetest.Failure{storetest.NotApplied, storetest.AnswerLost}).Draw(rt, "how"))
			}
			together(l, round, rapid.SliceOfN(rapid.Bool(), 0, 20).Draw(rt, "failing changes"), acked)
			if rapid.Bool().Draw(rt, "restart") {
				if err := l.Close(context.Background()); err != nil && !errors.Is(err, storetest.ErrInjected) {
					rt.Fatal(err)
				}
				s.Fail(0, storetest.NotApplied)
				if l, err = Open(context.Background(), config(t, s)); err != nil {
					rt.Fatal(err)
				}
			}
		}
		s.Fail(0, storetest.NotApplied)
		compareTrees(rt, l, acked)
		if err := l.Close(context.Background()); err != nil {
			rt.Error(err)
		}
	})
}

// together runs one change for each element at the same time and adds the
// acknowledged ones to acked.
func together(l *Ledger, round int, fails []bool, acked map[int64]string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, fail := range fails {
		name := string(rune('a'+round)) + string(rune('a'+i))
		wg.Go(func() {
			seq, err := l.Do(context.Background(), func(tx store.Rows) (audit.Entry, error) {
				e, err := mark(name)(tx)
				if fail {
					err = errors.Join(err, errOwn)
				}
				return e, err
			})
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				acked[seq] = name
			}
		})
	}
	wg.Wait()
}

func compareTrees(t *rapid.T, l *Ledger, acked map[int64]string) {
	ctx := context.Background()
	checkpoint, err := l.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.OpenCheckpoint(checkpoint, origin, l.cfg.Verifier)
	if err != nil || c.Size != int64(len(acked)) {
		t.Fatalf("%d entries, %d acknowledged, %v", c.Size, len(acked), err)
	}
	leaves, err := l.Leaves(ctx, 0, len(acked))
	if err != nil {
		t.Fatal(err)
	}
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	tree := factory.NewEmptyRange(0)
	for i, leaf := range leaves {
		e, err := audit.ParseEntry(leaf)
		if err != nil || e.Request != acked[int64(i)] {
			t.Fatalf("entry %d is of %s, acknowledged to %s, %v", i, e.Request, acked[int64(i)], err)
		}
		hash := rfc6962.DefaultHasher.HashLeaf(leaf)
		if err := tree.Append(hash, nil); err != nil {
			t.Fatal(err)
		}
		p, err := l.InclusionProof(ctx, int64(i), c.Size)
		if err != nil {
			t.Fatal(err)
		}
		path := make([][]byte, len(p))
		for j := range p {
			path[j] = p[j][:]
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(c.Size), hash, path, c.Root[:]); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.GetRootHash(nil)
	if err != nil || len(leaves) > 0 && string(root) != string(c.Root[:]) {
		t.Fatalf("root %x, want %x, %v", c.Root, root, err)
	}
}
