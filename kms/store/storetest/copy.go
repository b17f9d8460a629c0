package storetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"cardkms/kms/store"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// testCopy copies more than one page of everything into another store of the same kind,
// and finds all of it there.
func testCopy(t *testing.T, s *suite) {
	const rows, leaves, blocks = 1234, 2100, 70
	s.update(func(tx store.Tx) error {
		var all []store.Row
		for i := range rows {
			r := card(fmt.Sprintf("%04d", i), 1, fmt.Sprint("body ", i))
			r.MAC = []byte{byte(i)}
			all = append(all, r)
		}
		if err := tx.PutAll(all); err != nil {
			return err
		}
		for i := range int64(blocks) {
			if err := tx.PutBlock(fmt.Sprint("image-", i%3), i, bytes.Repeat([]byte{byte(i)}, int(i))); err != nil {
				return err
			}
		}
		return appendLeaves(tx, 0, leaves)
	})
	s.update(put(card("0007", 2, "second"), card("0007", 3, "third")))
	s.update(func(tx store.Tx) error { return tx.EmptyLeaves(0, 5) })
	other := s.open(t, t.TempDir())
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	n, err := store.Copy(context.Background(), other, s.Store)
	if want := (store.Copied{Rows: rows, Leaves: leaves, Blocks: blocks}); err != nil || n != want {
		t.Fatalf("copied %+v, %v, want %+v", n, err, want)
	}
	if diff := cmp.Diff(everything(t, s.Store), everything(t, other), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	before := everything(t, other)
	_, err = store.Copy(context.Background(), other, s.Store)
	wantError(t, err, store.ErrNotEmpty)
	if diff := cmp.Diff(before, everything(t, other), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("a copy that was refused changed the store: %s", diff)
	}
}

type content struct {
	Rows   []store.Row
	Leaves []store.Leaf
	Blocks []store.Block
}

func everything(t *testing.T, s store.Store) (all content) {
	t.Helper()
	err := s.View(context.Background(), func(tx store.Tx) (err error) {
		if all.Rows, err = tx.All(store.Ref{}, 1<<20); err != nil {
			return err
		}
		if all.Leaves, err = tx.Leaves(0, 1<<20); err != nil {
			return err
		}
		all.Blocks, err = tx.AllBlocks("", -1, 1<<20)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
