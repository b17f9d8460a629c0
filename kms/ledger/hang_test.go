package ledger

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
	"cardkms/kms/store/storetest"
)

// hangingMAC is a token that stops answering: its calls cannot be cancelled.
type hangingMAC struct{ gate chan struct{} }

func (h *hangingMAC) mac(ctx context.Context, m []byte) ([]byte, error) {
	if h.gate != nil {
		<-h.gate
	}
	return testMAC(ctx, m)
}

// TestTokenHangs: callers get an error within GroupTimeout, nothing is written,
// and the ledger goes on by itself when the token does.
func TestTokenHangs(t *testing.T) {
	s := newStore(t)
	h := &hangingMAC{}
	cfg := config(t, s)
	cfg.MAC = h.mac
	l := mustOpen(t, cfg)
	mustDo(t, l, mark("before"))
	gate := make(chan struct{})
	h.gate = gate
	for _, name := range []string{"one", "two"} { // the second does not even reach the token
		began := time.Now()
		if _, err := l.Do(context.Background(), mark(name)); fault.CodeOf(err) != fault.TokenUnavailable {
			t.Errorf("a token that hangs: %v", err)
		}
		if took := time.Since(began); took > AnswerWithin {
			t.Errorf("it took %v", took)
		}
	}
	close(gate)
	mustDo(t, l, mark("after"))
	if exists(t, s, "one") || exists(t, s, "two") || l.Size() != 2 {
		t.Error("something was written without a MAC")
	}
}

func TestTokenFails(t *testing.T) {
	s := newStore(t)
	cfg := config(t, s)
	var broken error
	cfg.MAC = func(ctx context.Context, m []byte) ([]byte, error) {
		if broken != nil {
			return nil, broken
		}
		return testMAC(ctx, m)
	}
	l := mustOpen(t, cfg)
	broken = fault.New(fault.TokenUnavailable, "lost")
	if _, err := l.Do(context.Background(), mark("one")); fault.CodeOf(err) != fault.TokenUnavailable || exists(t, s, "one") {
		t.Errorf("a token that fails: %v", err)
	}
	if _, err := Open(context.Background(), cfg); fault.CodeOf(err) != fault.TokenUnavailable {
		t.Errorf("a start without a token: %v", err)
	}
	broken = nil
	mustDo(t, l, mark("two"))
	cfg.MAC = func(context.Context, []byte) ([]byte, error) { return []byte("short"), nil }
	if _, err := Open(context.Background(), cfg); err == nil || errors.Is(err, ErrTampered) {
		t.Errorf("a MAC of the wrong length: %v", err)
	}
}

// stuckStore does not come back from a commit while its gate is there.
type stuckStore struct {
	store.Store
	gate chan struct{}
}

func (s *stuckStore) Update(ctx context.Context, f func(store.Tx) error) error {
	if s.gate != nil {
		<-s.gate
	}
	return s.Store.Update(ctx, f)
}

// TestDiskHangs, in simulated time: who is in the group that hangs learns after
// AnswerWithin that nobody knows; who waits behind it learns that nothing happened.
func TestDiskHangs(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		stuck := &stuckStore{Store: memoryStore{s}}
		l, err := Open(context.Background(), config(t, stuck))
		must(t, err)
		gate := make(chan struct{})
		stuck.gate = gate
		type result struct {
			took time.Duration
			err  error
		}
		ask := func(name string) chan result {
			c := make(chan result, 1)
			go func() {
				began := time.Now()
				_, err := l.Do(context.Background(), mark(name))
				c <- result{time.Since(began), err}
			}()
			synctest.Wait()
			return c
		}
		first, second := ask("first"), ask("second")
		a, b := <-first, <-second
		if a.took != AnswerWithin || !errors.Is(a.err, store.ErrUnknown) || fault.CodeOf(a.err) != fault.AuditUnavailable {
			t.Errorf("in the group: %v after %v", a.err, a.took)
		}
		if b.took != AnswerWithin || errors.Is(b.err, store.ErrUnknown) || fault.CodeOf(b.err) != fault.AuditUnavailable {
			t.Errorf("behind the group: %v after %v", b.err, b.took)
		}
		close(gate)
		synctest.Wait()
		mustDo(t, l, mark("third"))
		if want := map[bool]int64{true: 2, false: 1}[exists(t, s, "first")]; l.Size() != want || exists(t, s, "second") {
			t.Errorf("%d entries; the withdrawn one is there: %v", l.Size(), exists(t, s, "second"))
		}
		must(t, l.Close(context.Background()))
	})
}

// memoryStore is a store without deadlines of its own, which synctest would have
// pass while SQLite works.
type memoryStore struct{ *storetest.Faulty }

func (s memoryStore) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Faulty.Update(context.WithoutCancel(ctx), f)
}

// TestViewOfAnOlderMoment: a View that began before commits checks what it sees
// against the state of its own moment.
func TestViewOfAnOlderMoment(t *testing.T) {
	ctx := context.Background()
	l := mustOpen(t, config(t, newStore(t)))
	mustDo(t, l, mark("r"))
	bump := func(rows store.Rows) (audit.Entry, error) {
		row, err := rows.Get(ref("r"))
		row.Version++
		row.Body = append(row.Body, 'x')
		return entry("r"), errors.Join(err, rows.Put(row))
	}
	err := l.View(ctx, func(rows store.Rows) error {
		for range 10 {
			mustDo(t, l, bump)
		}
		row, err := rows.Get(ref("r"))
		if row.Version != 1 {
			t.Errorf("the View sees version %d", row.Version)
		}
		return err
	})
	must(t, err)
	must(t, l.View(ctx, func(rows store.Rows) error {
		row, err := rows.Get(ref("r"))
		if row.Version != 11 || len(row.Body) != 10 {
			t.Errorf("version %d, %d bytes", row.Version, len(row.Body))
		}
		return err
	}))
}

// TestStagedRows: a change sees what it and the changes before it in the group
// wrote, and nothing of one that failed.
func TestStagedRows(t *testing.T) {
	ctx := context.Background()
	l := mustOpen(t, config(t, newStore(t)))
	_, err := l.Do(ctx, func(rows store.Rows) (audit.Entry, error) {
		for _, id := range []string{"b", "a", "c"} {
			if err := rows.Put(store.Row{Ref: ref(id), Version: 1, Body: []byte(id)}); err != nil {
				return audit.Entry{}, err
			}
		}
		if err := rows.Put(store.Row{Ref: ref("a"), Version: 2, Body: []byte("A")}); err != nil {
			return audit.Entry{}, err
		}
		page, err := rows.List("card", "", "", 2)
		if len(page) != 2 || page[0].ID != "a" || string(page[0].Body) != "A" || page[1].ID != "b" {
			t.Errorf("the page inside the change: %v", page)
		}
		return entry("x"), err
	})
	must(t, err)
	for name, wrong := range map[string]store.Row{
		"a reserved kind": {Ref: headRef, Version: 2}, "no ID": {Ref: store.Ref{Kind: "card"}, Version: 1},
		"no kind": {Ref: store.Ref{ID: "x"}, Version: 1}, "version 0": {Ref: ref("x")}, "version 2 of nothing": {Ref: ref("x"), Version: 2},
	} {
		_, err := l.Do(ctx, func(rows store.Rows) (audit.Entry, error) { return entry("x"), rows.Put(wrong) })
		if err == nil {
			t.Errorf("%s was written", name)
		}
	}
	must(t, l.View(ctx, func(rows store.Rows) error {
		if err := rows.Put(store.Row{Ref: ref("v"), Version: 1}); err == nil {
			t.Error("a View wrote")
		}
		row, err := rows.Get(ref("a"))
		if row.Version != 2 || len(row.MAC) != MACSize {
			t.Errorf("a row that one change wrote twice: %+v", row)
		}
		if _, err := rows.Get(ref("x")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a row of a failed change: %v", err)
		}
		return err
	}))
}
