package storetest

import (
	"context"
	"errors"
	"testing"

	"cardkms/kms/store"
)

func testViewWrites(t *testing.T, s *suite) {
	s.update(put(card("old", 1, "")))
	s.view(func(tx store.Tx) error {
		writes := []error{
			tx.Put(card("7", 1, "")), tx.Put(card("old", 2, "")),
			appendLeaves(tx, 0, 1), tx.PutBlock("image", 0, nil),
			tx.EmptyLeaves(0, 1), tx.PutAll([]store.Row{card("7", 1, "")}),
			tx.Import([]store.Row{card("7", 5, "")}),
		}
		for i, err := range writes {
			if err == nil {
				t.Errorf("write %d in a View succeeded", i)
			}
		}
		wantRow(t, tx, card("old", 1, "")) // the View goes on
		return nil
	})
	s.view(func(tx store.Tx) error {
		wantNone(t, tx, card("7", 1, "").Ref)
		wantSize(t, tx, 0)
		return nil
	})
	wantError(t, s.View(context.Background(), func(store.Tx) error { return errUndo }), errUndo)
}

// testViewSnapshot commits while a View is under way, and reads inside an Update
// what a View must not see yet.
func testViewSnapshot(t *testing.T, s *suite) {
	s.update(func(tx store.Tx) error { return errors.Join(tx.Put(card("7", 1, "old")), appendLeaves(tx, 0, 2)) })
	s.view(func(old store.Tx) error {
		wantRow(t, old, card("7", 1, "old"))
		s.update(func(tx store.Tx) error {
			if err := errors.Join(tx.Put(card("7", 2, "new")), tx.Put(card("8", 1, "")), appendLeaves(tx, 2, 4)); err != nil {
				return err
			}
			s.view(func(other store.Tx) error { // an Update that is under way shows nothing
				wantRow(t, other, card("7", 1, "old"))
				wantSize(t, other, 2)
				return nil
			})
			return nil
		})
		wantRow(t, old, card("7", 1, "old"))
		wantNone(t, old, card("8", 1, "").Ref)
		wantSize(t, old, 2)
		return nil
	})
	s.view(func(tx store.Tx) error {
		wantRow(t, tx, card("7", 2, "new"))
		wantSize(t, tx, 4)
		return nil
	})
}

func testContextBefore(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	never := func(store.Tx) error { t.Error("ran although the context had ended"); return nil }
	wantError(t, s.Update(ctx, never), context.Canceled)
	wantError(t, s.View(ctx, never), context.Canceled)
}

func testContextDuring(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Update(ctx, func(tx store.Tx) error {
		if err := tx.Put(card("7", 1, "")); err != nil {
			return err
		}
		cancel()
		wantError(t, tx.Put(card("8", 1, "")), context.Canceled)
		return nil // even if the function does not notice, nothing may be committed
	})
	wantError(t, err, context.Canceled)
	wantNothing(t, s)
}

// testContextWaiting: an Update that waits for another one ends with its context,
// through the same handle and through another one.
func testContextWaiting(t *testing.T, s *suite) {
	other := s.another()
	s.update(func(store.Tx) error {
		for _, handle := range []store.Store{s.Store, other} {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() {
				done <- handle.Update(ctx, func(store.Tx) error {
					t.Error("two Updates ran at the same time")
					return nil
				})
			}()
			cancel()
			wantError(t, <-done, context.Canceled)
		}
		return nil
	})
}

func testReopen(t *testing.T, s *suite) {
	s.update(func(tx store.Tx) error {
		return errors.Join(tx.Put(card("7", 1, "old")), appendLeaves(tx, 0, 3), tx.PutBlock("image", 0, []byte("block")))
	})
	s.update(func(tx store.Tx) error { return errors.Join(tx.Put(card("7", 2, "new")), appendLeaves(tx, 3, 5)) })
	dir := t.TempDir()
	first := s.open(t, dir)
	if err := first.Update(context.Background(), put(card("8", 1, "closed"))); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	closed := &suite{t: t, open: s.open, dir: dir}
	closed.Store = closed.another()
	closed.view(func(tx store.Tx) error { wantRow(t, tx, card("8", 1, "closed")); return nil })
	closed.update(put(card("8", 2, "reopened")))

	s.Store = s.another() // while the first handle is still open, as after a crash
	s.view(func(tx store.Tx) error {
		wantRow(t, tx, card("7", 2, "new"))
		wantSize(t, tx, 5)
		if got, err := tx.Block("image", 0); err != nil || string(got) != "block" {
			t.Errorf("block: %q, %v", got, err)
		}
		return nil
	})
	s.update(func(tx store.Tx) error { return appendLeaves(tx, 5, 6) })
}
