package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

func intent(name string) Change {
	return func(store.Rows) (audit.Entry, error) {
		e := entry(name)
		e.Outcome = audit.OutcomePending
		return e, nil
	}
}

func outcome(name string, of int64) Change {
	return func(store.Rows) (audit.Entry, error) {
		e := entry(name)
		e.Intent = &of
		return e, nil
	}
}

// TestOpenIntentsAreClosed stops a life with intents of which some have outcomes.
func TestOpenIntentsAreClosed(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	l := mustOpen(t, config(t, s))
	var open []int64
	for i := range 5 {
		seq := mustDo(t, l, intent(fmt.Sprintf("i%d", i)))
		if i%2 == 0 {
			mustDo(t, l, outcome(fmt.Sprintf("i%d", i), seq))
		} else {
			open = append(open, seq)
		}
	}
	size := l.Size()
	again := mustOpen(t, config(t, s))
	entries, err := again.Entries(ctx, size, 100)
	must(t, err)
	if len(entries) != len(open) {
		t.Fatalf("%d intents were closed, want %d", len(entries), len(open))
	}
	for i, e := range entries {
		if *e.Intent != open[i] || e.Outcome != audit.OutcomeUnknown || e.Actor != audit.ActorService || e.Request != fmt.Sprintf("i%d", 2*i+1) {
			t.Errorf("intent %d was closed by %+v", open[i], e)
		}
	}
	if third := mustOpen(t, config(t, s)); third.Size() != size+int64(len(open)) {
		t.Error("intents are closed twice")
	}
}

// TestIntentsOfOtherNodes: a node that starts closes its own, wherever its clock stands; a
// node that runs closes those that it saw open for too long for anybody to be at work on them.
func TestIntentsOfOtherNodes(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	now := start
	node := func(name string) *Ledger {
		cfg := config(t, s)
		cfg.Node, cfg.Now = name, func() time.Time { return now }
		return mustOpen(t, cfg)
	}
	mustDo(t, node("a"), intent("of-a"))
	b := node("b")
	mustDo(t, b, intent("of-b"))
	size := int64(2)
	closed := func(what string, l *Ledger, want ...string) {
		t.Helper()
		must(t, l.closeAbandoned(ctx))
		entries, err := l.Entries(ctx, size, 10)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Request)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v were closed, want %v", what, got, want)
		}
		size += int64(len(entries))
	}
	now = start.Add(2 * time.Hour)
	ahead := node("c")
	closed("a node starts two hours ahead", ahead)
	closed("another one again", node("b"), "of-b")
	now = now.Add(abandoned)
	closed("the node an hour later", ahead, "of-a")
	closed("and once more", ahead)
}

// TestClosedOnce: who only knows that nobody knows is refused when somebody does.
func TestClosedOnce(t *testing.T) {
	ctx := context.Background()
	l := mustOpen(t, config(t, newStore(t)))
	seq := mustDo(t, l, intent("i"))
	e, err := l.openIntent(ctx, seq)
	must(t, err)
	mustDo(t, l, outcome("i", seq)) // between the look at the open ones and closing
	must(t, l.closeIntent(ctx, seq, e))
	if l.Size() != 2 {
		t.Errorf("the log has %d entries, want the intent and its outcome", l.Size())
	}
}

func TestIntentsAreBounded(t *testing.T) {
	l := mustOpen(t, config(t, newStore(t)))
	for i := range IntentsMax {
		mustDo(t, l, intent(fmt.Sprint(i)))
	}
	if _, err := l.Do(context.Background(), intent("one-more")); fault.CodeOf(err) != fault.RateLimited {
		t.Errorf("one intent more: %v", err)
	}
	mustDo(t, l, outcome("one", 0))
	mustDo(t, l, intent("one-more"))
}

func TestHeadIsParsedStrictly(t *testing.T) {
	good := head{size: 13, first: 2, open: []int64{3, 7}}
	if h, err := parseHead(good.encode()); err != nil || h.encode() != good.encode() {
		t.Fatalf("%v, %v", h, err)
	}
	for name, text := range map[string]string{
		"empty":       "",
		"cut":         good.encode()[:60],
		"a line more": good.encode() + "x\n",
		"first after": head{size: 1, first: 2}.encode(),
		"negative":    head{size: -1, first: -1}.encode(),
	} {
		if _, err := parseHead(text); err == nil {
			t.Errorf("%s was parsed", name)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(head{size: 13, first: 2, open: []int64{3, 7}}.encode())
	f.Add(emptyState().text)
	f.Fuzz(func(t *testing.T, text string) {
		if h, err := parseHead(text); err == nil && h.encode() != text {
			t.Errorf("%q was parsed as %q", text, h.encode())
		}
	})
}
