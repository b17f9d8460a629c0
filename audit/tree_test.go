package audit_test

import (
	"errors"
	"fmt"
	"testing"

	"cardkms/audit"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

// stored is a tree's stored hashes in memory.
type stored []tlog.Hash

var errNoHash = errors.New("no such hash")

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		if n >= int64(len(s)) {
			return nil, errNoHash
		}
		out[i] = s[n]
	}
	return out, nil
}

func record(n int64) []byte { return fmt.Appendf(nil, "record %d", n) }

// grow returns the checkpoints of all trees up to this size and the stored hashes.
func grow(size int64) ([]audit.Checkpoint, stored) {
	var edge audit.Edge
	var hashes stored
	checkpoints := []audit.Checkpoint{{Origin: "o", Root: edge.Root()}}
	for n := range size {
		hashes = append(hashes, edge.Append(audit.LeafHash(record(n)))...)
		checkpoints = append(checkpoints, audit.Checkpoint{Origin: "o", Size: n + 1, Root: edge.Root()})
	}
	return checkpoints, hashes
}

// TestEdgeAgrees compares roots and stored hashes with x/mod's and roots with
// those of transparency-dev/merkle.
func TestEdgeAgrees(t *testing.T) {
	var edge audit.Edge
	var hashes stored
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	other := factory.NewEmptyRange(0)
	for n := range int64(300) {
		want, err := tlog.StoredHashes(n, record(n), hashes)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(hashes)) != tlog.StoredHashIndex(0, n) {
			t.Fatalf("leaf %d starts at index %d", n, len(hashes))
		}
		got := edge.Append(audit.LeafHash(record(n)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("hashes of leaf %d: %s", n, diff)
		}
		hashes = append(hashes, got...)
		if err := other.Append(rfc6962.DefaultHasher.HashLeaf(record(n)), nil); err != nil {
			t.Fatal(err)
		}
		root, err := other.GetRootHash(nil)
		if err != nil || edge.Root() != tlog.Hash(root) {
			t.Fatalf("root of %d leaves differs, %v", n+1, err)
		}
		loaded, err := audit.LoadEdge(n+1, hashes)
		if err != nil || loaded.Root() != edge.Root() || loaded.Size() != n+1 {
			t.Fatalf("LoadEdge(%d): %v", n+1, err)
		}
	}
}

func TestEdgeOfNothing(t *testing.T) {
	var edge audit.Edge
	if want := rfc6962.DefaultHasher.EmptyRoot(); edge.Root() != tlog.Hash(want) {
		t.Errorf("root of the empty tree is %v", edge.Root())
	}
	if _, err := audit.LoadEdge(3, stored{}); !errors.Is(err, errNoHash) {
		t.Errorf("LoadEdge without hashes = %v", err)
	}
	if _, err := audit.LoadEdge(-1, stored{}); err == nil {
		t.Error("an edge of negative size was loaded")
	}
}

func TestCloneIsIndependent(t *testing.T) {
	var edge audit.Edge
	for n := range int64(7) {
		edge.Append(audit.LeafHash(record(n)))
	}
	root, clone := edge.Root(), edge.Clone()
	clone.Append(audit.LeafHash(record(7)))
	edge.Append(audit.LeafHash(record(99)))
	if clone.Root() == root || clone.Root() == edge.Root() {
		t.Error("a clone shares hashes with its origin")
	}
}

// TestProofsVerifyElsewhere has transparency-dev/merkle verify our proofs.
func TestProofsVerifyElsewhere(t *testing.T) {
	checkpoints, hashes := grow(40)
	for size := int64(1); size <= 40; size++ {
		c := checkpoints[size]
		for n := range size {
			p, err := audit.ProveEntry(size, n, hashes)
			if err != nil {
				t.Fatal(err)
			}
			if err := audit.CheckEntry(p, c, n, record(n)); err != nil {
				t.Errorf("entry %d of %d: %v", n, size, err)
			}
			if audit.CheckEntry(p, c, n, record(n+1)) == nil {
				t.Errorf("entry %d of %d: another entry passes", n, size)
			}
			leaf := rfc6962.DefaultHasher.HashLeaf(record(n))
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(n), uint64(size), leaf, slices(p), c.Root[:]); err != nil {
				t.Errorf("entry %d of %d, elsewhere: %v", n, size, err)
			}
		}
		for older := int64(0); older <= size; older++ {
			o := checkpoints[older]
			p, err := audit.ProveGrowth(size, older, hashes)
			if err != nil {
				t.Fatal(err)
			}
			if err := audit.CheckGrowth(p, c, o); err != nil {
				t.Errorf("%d to %d: %v", older, size, err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(older), uint64(size), slices(p), o.Root[:], c.Root[:]); err != nil {
				t.Errorf("%d to %d, elsewhere: %v", older, size, err)
			}
			forged := o
			forged.Root[5] ^= 1
			if audit.CheckGrowth(p, c, forged) == nil {
				t.Errorf("%d to %d: a forged root passes", older, size)
			}
		}
	}
}

func slices[P ~[]tlog.Hash](p P) [][]byte {
	out := make([][]byte, len(p))
	for i := range p {
		out[i] = p[i][:]
	}
	return out
}

func TestProofsRefuse(t *testing.T) {
	checkpoints, hashes := grow(5)
	for _, seq := range []int64{-1, 5} {
		if _, err := audit.ProveEntry(5, seq, hashes); err == nil {
			t.Errorf("entry %d of 5 was proven", seq)
		}
	}
	for _, older := range []int64{-1, 6} {
		if _, err := audit.ProveGrowth(5, older, hashes); err == nil {
			t.Errorf("growth from %d to 5 was proven", older)
		}
	}
	if audit.CheckGrowth(nil, checkpoints[3], checkpoints[4]) == nil {
		t.Error("a log that shrank passes")
	}
	other := checkpoints[5]
	other.Origin = "p"
	if audit.CheckGrowth(nil, other, checkpoints[5]) == nil {
		t.Error("another log passes")
	}
	if audit.CheckGrowth(tlog.TreeProof{{}}, checkpoints[5], checkpoints[5]) == nil {
		t.Error("a proof where none is needed passes")
	}
}
