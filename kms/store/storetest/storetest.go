// Package storetest is the conformance suite of store.Store, and a Store that
// fails on purpose.
//
// Run tests what the comments of package store promise, the same for every
// implementation. It leaves out what only one engine has, such as file modes,
// and it cannot pull the plug: that what is durable survives the loss of power
// is for the implementation's own tests.
//
// Every test asks for a database of its own. The suite measures no time; where a
// wait must end, a context ends it.
package storetest

import (
	"context"
	"errors"
	"testing"

	"cardkms/kms/store"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Open opens the database that belongs to dir, and creates it when it is not
// there: the same dir reaches the same database, also while it is open already.
// The suite closes what Open returns.
type Open func(t *testing.T, dir string) store.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"rows/create, replace, conflict", testPut},
		{"rows/many at once", testBulk},
		{"rows/list in pages", testList},
		{"rows/issuers and kinds are separate", testSeparation},
		{"rows/bodies", testBodies},
		{"rows/all of them", testAll},
		{"leaves/gap-free", testLeaves},
		{"leaves/hashes", testHashes},
		{"leaves/hashes are counted", testHashCount},
		{"leaves/emptied", testEmpty},
		{"blocks", testBlocks},
		{"copy", testCopy},
		{"update/rolls back on error", testRollback},
		{"update/rolls back on panic", testPanic},
		{"update/excludes others", testExclusion},
		{"update/excludes other handles", testTwoHandles},
		{"view/does not write", testViewWrites},
		{"view/sees one state", testViewSnapshot},
		{"context/ended before", testContextBefore},
		{"context/ends during", testContextDuring},
		{"context/ends while waiting", testContextWaiting},
		{"reopen/keeps everything", testReopen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &suite{t: t, open: open, dir: t.TempDir()}
			s.Store = s.another()
			tt.test(t, s)
		})
	}
}

// suite is one test's database.
type suite struct {
	store.Store
	t    *testing.T
	open Open
	dir  string
}

// another opens one more handle of the test's database.
func (s *suite) another() store.Store {
	s.t.Helper()
	opened := s.open(s.t, s.dir)
	s.t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			s.t.Errorf("closing: %v", err)
		}
	})
	return opened
}

func (s *suite) update(f func(store.Tx) error) {
	s.t.Helper()
	if err := s.Update(context.Background(), f); err != nil {
		s.t.Fatalf("Update: %v", err)
	}
}

func (s *suite) view(f func(store.Tx) error) {
	s.t.Helper()
	if err := s.View(context.Background(), f); err != nil {
		s.t.Fatalf("View: %v", err)
	}
}

func row(kind store.Kind, issuer, id string, version int64, body string) store.Row {
	return store.Row{Ref: store.Ref{Kind: kind, Issuer: issuer, ID: id}, Version: version, Body: []byte(body)}
}

func card(id string, version int64, body string) store.Row {
	return row("card", "acme", id, version, body)
}

// put writes rows and stops at the first error.
func put(rows ...store.Row) func(store.Tx) error {
	return func(tx store.Tx) error {
		for _, r := range rows {
			if err := tx.Put(r); err != nil {
				return err
			}
		}
		return nil
	}
}

// wantRow compares a stored row with want.
func wantRow(t *testing.T, tx store.Rows, want store.Row) {
	t.Helper()
	got, err := tx.Get(want.Ref)
	if err != nil {
		t.Errorf("Get(%v): %v", want.Ref, err)
		return
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Get(%v): %s", want.Ref, diff)
	}
}

func wantNone(t *testing.T, tx store.Rows, ref store.Ref) {
	t.Helper()
	if _, err := tx.Get(ref); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get(%v) = %v, want ErrNotFound", ref, err)
	}
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
