package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
	"cardkms/kms/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// hold occupies the writer until release is called, so that what is sent in
// between must wait and come in one group.
func hold(t *testing.T, l *Ledger) (release func()) {
	t.Helper()
	started, gate, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := l.Do(context.Background(), func(store.Rows) (audit.Entry, error) {
			close(started)
			<-gate
			return entry("hold"), nil
		})
		done <- err
	}()
	<-started
	return func() {
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waitQueued waits until n changes wait for the writer.
func waitQueued(l *Ledger, n int) {
	for len(l.queue) < n {
		select { // yields
		case <-l.done:
			return
		default:
		}
	}
}

func TestConcurrentCallersShareOneUpdate(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	release := hold(t, l)
	before := s.Updates()
	const callers = 100
	seqs := make([]int64, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { seqs[i] = mustDo(t, l, mark(fmt.Sprintf("r%d", i))) })
	}
	waitQueued(l, callers)
	release()
	wg.Wait()
	if got := s.Updates() - before; got != 1 {
		t.Errorf("%d changes took %d updates, want 1", callers, got)
	}
	ids := requests(t, l)
	for i, seq := range seqs {
		if want := fmt.Sprintf("r%d", i); ids[seq] != want {
			t.Errorf("sequence %d was returned to %s and belongs to %s", seq, want, ids[seq])
		}
	}
}

func TestFailingChangeHarmsNobody(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	own := fault.New(fault.Conflict, "own error")
	release := hold(t, l)
	changes := map[string]Change{
		"good1": mark("good1"),
		"fails": func(tx store.Rows) (audit.Entry, error) {
			_, err := mark("fails")(tx)
			return entry("fails"), errors.Join(err, own)
		},
		"invalid": func(tx store.Rows) (audit.Entry, error) {
			e, err := mark("invalid")(tx)
			e.Actor = "two\nlines"
			return e, err
		},
		"conflict": func(tx store.Rows) (audit.Entry, error) {
			return entry("conflict"), tx.Put(store.Row{Ref: ref("good1"), Version: 7})
		},
		"good2": mark("good2"),
	}
	results := make(map[string]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, change := range changes {
		wg.Go(func() {
			_, err := l.Do(context.Background(), change)
			mu.Lock()
			defer mu.Unlock()
			results[name] = err
		})
	}
	waitQueued(l, len(changes))
	release()
	wg.Wait()
	var field *audit.FieldError
	if results["good1"] != nil || results["good2"] != nil || !errors.Is(results["fails"], own) ||
		!errors.As(results["invalid"], &field) || !errors.Is(results["conflict"], store.ErrVersion) {
		t.Errorf("results %v", results)
	}
	for name := range changes {
		if want := name == "good1" || name == "good2"; exists(t, s, name) != want {
			t.Errorf("row %s exists: %v", name, !want)
		}
	}
	ids := requests(t, l)
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"good1", "good2", "hold"}, ids); diff != "" {
		t.Error(diff)
	}
}

// TestTwoChangesOfOneRowInOneGroup: callers who change one row at the same time
// follow each other, whether or not they share a transaction.
func TestTwoChangesOfOneRowInOneGroup(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	mustDo(t, l, mark("shared"))
	release := hold(t, l)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			mustDo(t, l, func(rows store.Rows) (audit.Entry, error) {
				row, err := rows.Get(ref("shared"))
				row.Version++
				return entry(fmt.Sprintf("r%d", i)), errors.Join(err, rows.Put(row))
			})
		})
	}
	waitQueued(l, 5)
	before := s.Updates()
	release()
	wg.Wait()
	if got := s.Updates() - before; got != 1 {
		t.Errorf("%d updates", got)
	}
	err := l.View(context.Background(), func(rows store.Rows) error {
		row, err := rows.Get(ref("shared"))
		if row.Version != 6 {
			t.Errorf("version %d", row.Version)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPanicGoesToItsCaller(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	func() {
		defer func() {
			if p := recover(); p != "a bug" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = l.Do(context.Background(), func(tx store.Rows) (audit.Entry, error) {
			if err := tx.Put(store.Row{Ref: ref("gone"), Version: 1}); err != nil {
				return audit.Entry{}, err
			}
			panic("a bug")
		})
	}()
	if exists(t, s, "gone") || l.Size() != 0 {
		t.Error("a change that panicked left something behind")
	}
	mustDo(t, l, mark("next"))
}

func TestContextEndsBeforeTheGroup(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	never := func(store.Rows) (audit.Entry, error) { t.Error("the change ran"); return entry("never"), nil }
	if _, err := l.Do(ended, never); !errors.Is(err, context.Canceled) {
		t.Errorf("Do = %v", err)
	}
	release := hold(t, l)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() {
		_, err := l.Do(ctx, never)
		result <- err
	}()
	waitQueued(l, 1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Do = %v", err)
	}
	release()
	mustDo(t, l, mark("next"))
	if diff := cmp.Diff([]string{"hold", "next"}, requests(t, l)); diff != "" {
		t.Error(diff)
	}
}

// TestContextEndsDuringTheGroup: what has begun is answered with its outcome.
func TestContextEndsDuringTheGroup(t *testing.T) {
	l := mustOpen(t, config(t, newStore(t)))
	ctx, cancel := context.WithCancel(context.Background())
	seq, err := l.Do(ctx, func(store.Rows) (audit.Entry, error) {
		cancel()
		return entry("kept"), nil
	})
	if err != nil || seq != 0 || l.Size() != 1 {
		t.Errorf("Do = %d, %v", seq, err)
	}
}

func TestCloseDrains(t *testing.T) {
	s := newStore(t)
	l, err := Open(context.Background(), config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	release := hold(t, l)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { mustDo(t, l, mark(fmt.Sprintf("r%d", i))) })
	}
	waitQueued(l, 10)
	closed := make(chan error)
	go func() { closed <- l.Close(context.Background()) }()
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	wg.Wait()
	if l.Size() != 11 {
		t.Errorf("size %d after Close", l.Size())
	}
	if _, err := l.Do(context.Background(), mark("late")); fault.CodeOf(err) != fault.AuditUnavailable || exists(t, s, "late") {
		t.Errorf("Do after Close = %v", err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

// TestTwoWayFailure lets every Update of a short life fail in both ways. What
// must hold: an acknowledged change is there, a refused one is not, the next one
// works, and the log verifies.
func TestTwoWayFailure(t *testing.T) {
	open := func(t *testing.T, dir string) store.Store { return openDir(t, dir) }
	storetest.TwoWay(t, open, func(t *testing.T, s *storetest.Faulty, failure storetest.Failure) {
		cfg := config(t, s)
		l, err := Open(context.Background(), cfg)
		if err != nil && failure == storetest.NotApplied {
			l, err = Open(context.Background(), cfg)
		}
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		var want []string
		for i := range 3 {
			name := fmt.Sprintf("r%d", i)
			_, err := l.Do(context.Background(), mark(name))
			if err != nil && (failure == storetest.AnswerLost || fault.CodeOf(err) != fault.AuditUnavailable || !errors.Is(err, storetest.ErrInjected)) {
				t.Errorf("Do = %v", err)
			}
			if exists(t, s, name) != (err == nil) {
				t.Errorf("row %s exists and Do = %v", name, err)
			}
			if err == nil {
				want = append(want, name)
			}
			if _, err := l.Checkpoint(context.Background()); err != nil && failure == storetest.AnswerLost {
				t.Errorf("Checkpoint = %v", err)
			}
		}
		if diff := cmp.Diff(want, requests(t, l)); diff != "" || len(want) < 2 {
			t.Error(diff)
		}
		if err := l.Close(context.Background()); err != nil {
			t.Errorf("Close = %v", err)
		}
		again := mustOpen(t, cfg)
		if diff := cmp.Diff(want, requests(t, again)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestReadBackFails: if even reading back fails, the answer says that the outcome
// is not known, and the ledger finds out before the next group.
func TestReadBackFails(t *testing.T) {
	s := newStore(t)
	blind := &blindStore{Store: s, lost: s.Fired}
	l := mustOpen(t, config(t, blind))
	mustDo(t, l, mark("r0"))
	s.Fail(1, storetest.AnswerLost)
	blind.blind = true
	_, err := l.Do(context.Background(), mark("r1"))
	if fault.CodeOf(err) != fault.AuditUnavailable || !errors.Is(err, store.ErrUnknown) {
		t.Errorf("Do = %v", err)
	}
	if _, err := l.Do(context.Background(), mark("r2")); fault.CodeOf(err) != fault.AuditUnavailable || errors.Is(err, store.ErrUnknown) {
		t.Errorf("Do with a store that cannot be read = %v", err)
	}
	blind.blind = false
	if seq := mustDo(t, l, mark("r3")); seq != 2 {
		t.Errorf("sequence %d, want 2", seq)
	}
	if diff := cmp.Diff([]string{"r0", "r1", "r3"}, requests(t, l)); diff != "" {
		t.Error(diff)
	}
}

// blindStore lets nobody look while blind is set, which the test does only while the
// writer waits: neither in a View nor in an Update after the one whose answer was lost.
type blindStore struct {
	store.Store
	lost  func() bool
	blind bool
}

func (s *blindStore) View(ctx context.Context, f func(store.Tx) error) error {
	if s.blind {
		return storetest.ErrInjected
	}
	return s.Store.View(ctx, f)
}

func (s *blindStore) Update(ctx context.Context, f func(store.Tx) error) error {
	if s.blind && s.lost() {
		return storetest.ErrInjected
	}
	return s.Store.Update(ctx, f)
}
