package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cardkms/audit"
	"cardkms/kms/store"
)

// countingStore counts the pages of the state map that are read whole.
type countingStore struct {
	store.Store
	pages atomic.Int64
}

type countingTx struct {
	store.Tx
	pages *atomic.Int64
}

func (tx countingTx) List(kind store.Kind, issuer, after string, limit int) ([]store.Row, error) {
	if kind == kindStateMap {
		tx.pages.Add(1)
	}
	return tx.Tx.List(kind, issuer, after, limit)
}

func (s *countingStore) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return f(countingTx{tx, &s.pages}) })
}

func (s *countingStore) View(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.View(ctx, func(tx store.Tx) error { return f(countingTx{tx, &s.pages}) })
}

// nodes opens ledgers that share a database, each by a handle of its own.
func nodes(t *testing.T, dir string, n int) (all []*Ledger, stores []*countingStore) {
	t.Helper()
	return nodesOf(t, n, func() store.Store {
		s := openDir(t, dir)
		t.Cleanup(func() { must(t, s.Close()) })
		return s
	})
}

func nodesOf(t *testing.T, n int, open func() store.Store) (all []*Ledger, stores []*countingStore) {
	t.Helper()
	for i := range n {
		s := &countingStore{Store: open()}
		cfg := config(t, s)
		cfg.Node = fmt.Sprintf("n%d", i)
		all, stores = append(all, mustOpen(t, cfg)), append(stores, s)
	}
	return all, stores
}

// add is a change of one counter that all nodes share.
func add(tx store.Rows) error {
	row, err := tx.Get(ref("shared"))
	if row.Version == 0 {
		row, err = store.Row{Ref: ref("shared"), Body: []byte{0, 0}}, nil
	}
	if err != nil {
		return err
	}
	n := int(row.Body[0])<<8 + int(row.Body[1]) + 1
	return tx.Put(store.Row{Ref: row.Ref, Version: row.Version + 1, Body: []byte{byte(n >> 8), byte(n)}})
}

// TestNodes has three nodes change one row and rows of their own. No change is lost,
// every node reads every row and signs the same log, and nobody reads more than is new.
func TestNodes(t *testing.T) {
	all, stores := nodes(t, t.TempDir(), 3)
	workTogether(t, all, stores)
}

func workTogether(t *testing.T, all []*Ledger, stores []*countingStore) {
	t.Helper()
	const each = 60
	for _, s := range stores {
		s.pages.Store(0)
	}
	var wg sync.WaitGroup
	for i, l := range all {
		for w := range 3 {
			wg.Go(func() {
				for n := range each / 3 {
					name := fmt.Sprintf("n%d-%d-%d", i, w, n)
					if _, err := l.Do(context.Background(), both(mark(name), add)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for i, l := range all {
		var shared store.Row
		must(t, l.View(context.Background(), func(tx store.Rows) (err error) {
			shared, err = tx.Get(ref("shared"))
			return err
		}))
		if shared.Version != 3*each || int(shared.Body[0])<<8+int(shared.Body[1]) != 3*each {
			t.Errorf("node %d: the counter is %v at version %d, want %d", i, shared.Body, shared.Version, 3*each)
		}
		if c, err := l.Signed(context.Background()); err != nil || c.Size != 3*each {
			t.Errorf("node %d signs %d entries, %v, want %d", i, c.Size, err, 3*each)
		}
		if n := stores[i].pages.Load(); n > 0 {
			t.Errorf("node %d read %d pages of the state map to follow the others", i, n)
		}
		if found, err := l.Scrub(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("node %d: %v, %v", i, found, err)
		}
	}
}

// both makes the changes of two.
func both(change Change, more func(store.Rows) error) Change {
	return func(tx store.Rows) (entry audit.Entry, err error) {
		if entry, err = change(tx); err != nil {
			return entry, err
		}
		return entry, more(tx)
	}
}

// TestHintIsNotBelieved: what a leaf says that it touched only saves reading. A database
// that lies about it is followed nevertheless.
func TestHintIsNotBelieved(t *testing.T) {
	for _, lie := range []string{"x''", "x'0001'", "x'FFFFFFFF00'"} {
		dir := t.TempDir()
		all, stores := nodes(t, dir, 2)
		mustDo(t, all[0], mark("a"))
		mustDo(t, all[1], mark("b")) // knows what a did
		mustDo(t, all[0], mark("c"))
		db, err := sql.Open("sqlite", filepath.Join(dir, "cardkms.db")+"?_pragma=busy_timeout(5000)")
		must(t, err)
		_, err = db.Exec("UPDATE log_leaves SET touched = " + lie)
		must(t, errors.Join(err, db.Close()))
		stores[1].pages.Store(0)
		mustDo(t, all[1], mark("d"))
		if stores[1].pages.Load() == 0 {
			t.Errorf("%s: the state map was not read again", lie)
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			if !exists(t, stores[1], name) {
				t.Errorf("%s: row %s is lost", lie, name)
			}
		}
	}
}

// TestFarBehind: a node that was idle reads the state as if it had just started.
func TestFarBehind(t *testing.T) {
	all, stores := nodes(t, t.TempDir(), 2)
	mustDo(t, all[1], mark("first"))
	for i := range growMax/GroupMax + 1 {
		var wg sync.WaitGroup
		for n := range GroupMax {
			wg.Go(func() { mustDo(t, all[0], mark(fmt.Sprintf("r%d-%d", i, n))) })
		}
		wg.Wait()
	}
	stores[1].pages.Store(0)
	mustDo(t, all[1], mark("last"))
	if stores[1].pages.Load() == 0 {
		t.Error("the state map was not read")
	}
	if a, b := all[0], all[1]; a.catchUp(context.Background()) != nil || a.Size() != b.Size() {
		t.Errorf("sizes %d and %d", a.Size(), b.Size())
	}
}

// TestTwoHeads: another head of the same length follows from nothing, whoever made it.
func TestTwoHeads(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	l, err := Open(ctx, config(t, s))
	must(t, err)
	defer l.Close(ctx) //nolint:errcheck // it closes over what the test did to it
	mustDo(t, l, intent("open"))
	st := *l.currentState()
	st.head.open = nil
	st.text, st.version = st.head.encode(), st.version+1
	macs, err := l.macs(ctx, [][]byte{l.headMessage(st.text, st.version)})
	must(t, err)
	st.mac = macs[0]
	must(t, s.Update(ctx, func(tx store.Tx) error { return tx.Put(st.row()) }))
	if err := l.View(ctx, func(store.Rows) error { return nil }); err == nil || !strings.Contains(err.Error(), "two heads") {
		t.Errorf("a second head of one entry: %v", err)
	}
}
