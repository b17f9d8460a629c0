package ledger

import (
	"context"
	"errors"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/store"
)

// TestStats: what the figures say of a log that grows, is signed and is kept.
func TestStats(t *testing.T) {
	m := &memory{}
	cfg := anchored(t, newStore(t), m)
	cfg.Witnesses = []Witness{witnessed(t, t.TempDir())}
	var groups []Group
	cfg.OnGroup = func(g Group) { groups = append(groups, g) }
	l := mustOpen(t, cfg)
	if s := l.Stats(); s.Size != 0 || len(s.Kept) != 2 || !s.Kept["w"].At.IsZero() {
		t.Errorf("an empty log: %+v", s)
	}
	marks(t, l, 3)
	if s := l.Stats(); s.Size != 3 || s.Signed.Size != 0 {
		t.Errorf("three entries, not signed: %+v", s)
	}
	must(t, l.Anchored(context.Background()))
	s := l.Stats()
	if all := (Kept{Size: 3, At: start}); s.Signed != all || s.Kept["anchor-a"] != all || s.Kept["w"].Size != 3 {
		t.Errorf("signed and kept: %+v", s)
	}
	refused := errors.New("no")
	_, _ = l.Do(context.Background(), func(store.Rows) (audit.Entry, error) { return audit.Entry{}, refused })
	if len(groups) != 4 || groups[0].Entries != 1 || groups[0].Err != nil || groups[3].Entries != 0 || groups[3].Err != nil {
		t.Errorf("groups: %+v", groups)
	}
	again := mustOpen(t, func() Config { c := cfg; c.OnGroup = nil; return c }())
	if s := again.Stats(); s.Signed.Size != 3 {
		t.Errorf("opened again: %+v", s)
	}
}

// TestGroupFails: a group that the store refuses is told of with its reason.
func TestGroupFails(t *testing.T) {
	s := newStore(t)
	cfg := config(t, s)
	var last Group
	cfg.OnGroup = func(g Group) { last = g }
	broken := errors.New("the token is away")
	var fails error
	cfg.MAC = func(ctx context.Context, m []byte) ([]byte, error) {
		if fails != nil {
			return nil, fails
		}
		return testMAC(ctx, m)
	}
	l := mustOpen(t, cfg)
	fails = broken
	_, err := l.Do(context.Background(), mark("one"))
	fails = nil
	if err == nil || !errors.Is(last.Err, broken) {
		t.Errorf("%v; the group says %v", err, last.Err)
	}
}

// TestBehind: a keeper is behind from the first checkpoint on that it lacks, until it has the
// newest one.
func TestBehind(t *testing.T) {
	var s stats
	s.init(Config{Anchors: []Anchor{{Name: "a"}}})
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	behind := func(what string, want time.Time) {
		t.Helper()
		if got := s.has["a"].Behind; !got.Equal(want) {
			t.Errorf("%s: behind since %v, want %v", what, got, want)
		}
	}
	behind("nothing is signed", time.Time{})
	s.signed(3, at(1))
	behind("the first checkpoint", at(1))
	s.signed(5, at(2))
	behind("the second one", at(1))
	s.kept("a", 3, at(3))
	behind("it has the first one", at(1))
	s.kept("a", 5, at(4))
	behind("it has all", time.Time{})
	s.signed(6, at(90))
	behind("after an idle hour", at(90))
}
