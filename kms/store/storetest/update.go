package storetest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"cardkms/kms/store"
)

var errUndo = errors.New("storetest: undo this")

func testRollback(t *testing.T, s *suite) {
	err := s.Update(context.Background(), func(tx store.Tx) error {
		if err := errors.Join(tx.Put(card("7", 1, "")), appendLeaves(tx, 0, 3), tx.PutBlock("image", 0, nil)); err != nil {
			return err
		}
		return errUndo
	})
	wantError(t, err, errUndo)
	wantNothing(t, s)
}

func testPanic(t *testing.T, s *suite) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("Update swallowed a panic")
			}
		}()
		_ = s.Update(context.Background(), func(tx store.Tx) error {
			if err := errors.Join(tx.Put(card("7", 1, "")), appendLeaves(tx, 0, 1)); err != nil {
				return err
			}
			panic("storetest: a bug")
		})
	}()
	wantNothing(t, s)
}

// wantNothing also shows that the store still works.
func wantNothing(t *testing.T, s *suite) {
	t.Helper()
	s.view(func(tx store.Tx) error {
		wantNone(t, tx, card("7", 1, "").Ref)
		wantSize(t, tx, 0)
		_, err := tx.Block("image", 0)
		wantError(t, err, store.ErrNotFound)
		return nil
	})
	s.update(func(tx store.Tx) error { return errors.Join(tx.Put(card("7", 1, "")), appendLeaves(tx, 0, 1)) })
}

// increment reads a counter and writes it back: lost if two Updates overlap.
func increment(s store.Store) error {
	return s.Update(context.Background(), func(tx store.Tx) error {
		ref := card("counter", 0, "").Ref
		r, err := tx.Get(ref)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(r.Body)) // no row counts as 0
		size, err := tx.Size()
		if err != nil {
			return err
		}
		return errors.Join(
			tx.Put(store.Row{Ref: ref, Version: r.Version + 1, Body: strconv.AppendInt(nil, int64(n+1), 10)}),
			appendLeaves(tx, size, size+1))
	})
}

func testExclusion(t *testing.T, s *suite) { countTogether(t, s, s.Store, s.Store) }

func testTwoHandles(t *testing.T, s *suite) { countTogether(t, s, s.Store, s.another()) }

func countTogether(t *testing.T, s *suite, handles ...store.Store) {
	const callers, each = 8, 20
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range each {
				if err := increment(handles[i%len(handles)]); err != nil {
					t.Errorf("incrementing: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.view(func(tx store.Tx) error {
		wantRow(t, tx, card("counter", callers*each, strconv.Itoa(callers*each)))
		wantSize(t, tx, callers*each)
		return nil
	})
}
