package ledger

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// fakeDisk is a disk whose use a test sets.
type fakeDisk struct {
	used     atomic.Int64
	reserved atomic.Bool
}

func (d *fakeDisk) Used() (int, error) { return int(d.used.Load()), nil }
func (d *fakeDisk) Reserve() error     { d.reserved.Store(true); return nil }
func (d *fakeDisk) Release() error     { d.reserved.Store(false); return nil }

// operations returns the operations of the entries from a sequence on.
func operations(t *testing.T, l *Ledger, from int64) (out []string) {
	t.Helper()
	entries, err := l.Entries(context.Background(), from, 100)
	must(t, err)
	for _, e := range entries {
		out = append(out, e.Operation)
	}
	return out
}

func TestDiskFillsAndEmpties(t *testing.T) {
	ctx := context.Background()
	d := &fakeDisk{}
	cfg := config(t, newStore(t))
	cfg.Disk = d
	l := mustOpen(t, cfg)
	look := func(used int64, want ...string) {
		t.Helper()
		size := l.Size()
		d.used.Store(used)
		l.watchDisk(ctx)
		got := operations(t, l, size)
		if len(got) != len(want) {
			t.Errorf("at %d %%: %v, want %v", used, got, want)
			return
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("at %d %%: %v, want %v", used, got, want)
			}
		}
	}
	look(10)
	if !d.reserved.Load() {
		t.Error("no room is reserved")
	}
	look(81, "log.space")
	look(82)
	look(96, "log.space")
	mustDo(t, l, mark("still"))
	look(99, "log.full")
	if d.reserved.Load() {
		t.Error("the reserved room was not released")
	}
	if _, err := l.Do(ctx, mark("refused")); fault.CodeOf(err) != fault.AuditFull {
		t.Errorf("a full disk: %v", err)
	}
	if err := l.Ready(); fault.CodeOf(err) != fault.AuditFull {
		t.Errorf("Ready: %v", err)
	}
	look(95) // not enough
	look(50, "log.recovered")
	if !d.reserved.Load() {
		t.Error("room is not reserved again")
	}
	mustDo(t, l, mark("again"))
	must(t, l.Ready())
}

// fullStore refuses writes as a disk without room does.
type fullStore struct {
	store.Store
	full atomic.Bool
}

func (s *fullStore) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error {
		if err := f(tx); err != nil || !s.full.Load() {
			return err
		}
		return store.ErrFull
	})
}

// TestDiskFullByStore: a disk that fills up between two looks at it closes the
// service as well, and the reserved room lets the entry be written that says so.
func TestDiskFullByStore(t *testing.T) {
	ctx := context.Background()
	s, d := &fullStore{Store: newStore(t)}, &fakeDisk{}
	cfg := config(t, s)
	cfg.Disk = d
	l := mustOpen(t, cfg)
	s.full.Store(true)
	if _, err := l.Do(ctx, mark("one")); fault.CodeOf(err) != fault.AuditFull || !errors.Is(err, store.ErrFull) {
		t.Errorf("the store is full: %v", err)
	}
	if _, err := l.Do(ctx, mark("two")); fault.CodeOf(err) != fault.AuditFull || errors.Is(err, store.ErrFull) {
		t.Errorf("and is not asked again: %v", err)
	}
	l.watchDisk(ctx) // no room even for that
	if err := l.Ready(); fault.CodeOf(err) != fault.AuditFull {
		t.Errorf("Ready: %v", err)
	}
	s.full.Store(false)
	l.watchDisk(ctx)
	l.watchDisk(ctx)
	if got := operations(t, l, 0); len(got) != 2 || got[0] != "log.full" || got[1] != "log.recovered" {
		t.Errorf("%v", got)
	}
	mustDo(t, l, mark("three"))
}
