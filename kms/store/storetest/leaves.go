package storetest

import (
	"fmt"
	"math/bits"
	"testing"

	"cardkms/kms/store"

	"github.com/google/go-cmp/cmp"
)

// leaf returns the content of leaf n.
func leaf(n int64) []byte { return fmt.Appendf(nil, "leaf %d\n", n) }

// hashes returns stand-ins for the hashes that leaf n adds: one, and one more
// for each subtree that it completes. A store does not know what they are.
func hashes(n int64) [][store.HashSize]byte {
	out := make([][store.HashSize]byte, 1+bits.TrailingZeros64(^uint64(n)))
	for i := range out {
		copy(out[i][:], fmt.Sprintf("hash %d of leaf %d", i, n))
	}
	return out
}

// stored is leaf n with all that is kept of it.
func stored(n int64) store.Leaf {
	l := store.Leaf{Content: leaf(n), Hashes: hashes(n)}
	for i := range n % 3 {
		l.Touched = append(l.Touched, uint16(n+i), 0xFFFF)
	}
	return l
}

func appendLeaves(tx store.Leaves, from, to int64) error {
	var leaves []store.Leaf
	for n := from; n < to; n++ {
		leaves = append(leaves, stored(n))
	}
	return tx.AppendLeaves(from, leaves)
}

func wantSize(t *testing.T, tx store.Leaves, want int64) {
	t.Helper()
	if got, err := tx.Size(); err != nil || got != want {
		t.Errorf("Size() = %d, %v, want %d", got, err, want)
	}
}

func testLeaves(t *testing.T, s *suite) {
	s.update(func(tx store.Tx) error {
		wantSize(t, tx, 0)
		for _, wrong := range []int64{-1, 1, 7} {
			if tx.AppendLeaves(wrong, []store.Leaf{stored(max(wrong, 0))}) == nil {
				t.Errorf("leaf %d was appended to no leaves", wrong)
			}
		}
		return appendLeaves(tx, 0, 5)
	})
	s.update(func(tx store.Tx) error {
		for _, wrong := range []int64{0, 4, 6} {
			wantError(t, tx.AppendLeaves(wrong, []store.Leaf{stored(wrong)}), store.ErrVersion)
		}
		wantSize(t, tx, 5)
		err := appendLeaves(tx, 5, 9)
		wantSize(t, tx, 9)
		return err
	})
	s.view(func(tx store.Tx) error {
		wantSize(t, tx, 9)
		for _, tt := range []struct {
			seq   int64
			limit int
			want  int64 // leaf after the last one
		}{{0, 100, 9}, {0, 9, 9}, {3, 4, 7}, {8, 1, 9}, {9, 5, 9}, {50, 5, 50}, {0, 0, 0}} {
			var want []store.Leaf
			for n := tt.seq; n < tt.want; n++ {
				want = append(want, stored(n))
			}
			got, err := tx.Leaves(tt.seq, tt.limit)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("Leaves(%d, %d): %v %s", tt.seq, tt.limit, err, diff)
			}
		}
		return nil
	})
}

func testHashes(t *testing.T, s *suite) {
	const size = 70
	var want [][store.HashSize]byte
	for n := range int64(size) {
		want = append(want, hashes(n)...)
	}
	s.update(func(tx store.Tx) error { return appendLeaves(tx, 0, size) })
	s.view(func(tx store.Tx) error {
		all := make([]int64, len(want))
		for i := range all {
			all[i] = int64(i)
		}
		got, err := tx.Hashes(all)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("all hashes: %v %s", err, diff)
		}
		got, err = tx.Hashes([]int64{9, 3, 4, 5, 0, 0})
		picked := [][store.HashSize]byte{want[9], want[3], want[4], want[5], want[0], want[0]}
		if diff := cmp.Diff(picked, got); err != nil || diff != "" {
			t.Errorf("some hashes, not in order: %v %s", err, diff)
		}
		if got, err := tx.Hashes(nil); err != nil || len(got) != 0 {
			t.Errorf("no hashes: %d, %v", len(got), err)
		}
		for _, missing := range [][]int64{{int64(len(want))}, {0, -1}, {0, int64(len(want) - 1), int64(len(want))}} {
			_, err := tx.Hashes(missing)
			wantError(t, err, store.ErrNotFound)
		}
		return nil
	})
}

// testHashCount: a wrong number of hashes would shift every later index.
func testHashCount(t *testing.T, s *suite) {
	s.update(func(tx store.Tx) error {
		for _, wrong := range [][]store.Leaf{
			{{Content: leaf(0)}}, {{Content: leaf(0), Hashes: hashes(1)}}, {stored(0), {Content: leaf(1), Hashes: hashes(0)}},
		} {
			if tx.AppendLeaves(0, wrong) == nil {
				t.Errorf("leaves with a wrong number of hashes were appended: %v", wrong)
			}
		}
		return appendLeaves(tx, 0, 1)
	})
}

// testEmpty: a leaf that was emptied keeps its place and its hashes.
func testEmpty(t *testing.T, s *suite) {
	s.update(func(tx store.Tx) error { return appendLeaves(tx, 0, 6) })
	s.update(func(tx store.Tx) error { return tx.EmptyLeaves(1, 4) })
	s.view(func(tx store.Tx) error {
		got, err := tx.Leaves(0, 10)
		if err != nil || len(got) != 6 {
			t.Fatalf("%d leaves, %v", len(got), err)
		}
		for n, l := range got {
			want := string(leaf(int64(n)))
			if n >= 1 && n < 4 {
				want = ""
			}
			if string(l.Content) != want {
				t.Errorf("leaf %d is %q, want %q", n, l.Content, want)
			}
			if diff := cmp.Diff(hashes(int64(n)), l.Hashes); diff != "" {
				t.Errorf("hashes of leaf %d: %s", n, diff)
			}
		}
		wantSize(t, tx, 6)
		return nil
	})
}
