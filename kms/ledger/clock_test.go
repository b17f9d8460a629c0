package ledger

import (
	"context"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// testClock is a wall clock that a test sets, and one that only goes on.
type testClock struct {
	wall time.Time
	ran  time.Duration
}

// run lets time pass, by both clocks.
func (c *testClock) run(d time.Duration) { c.wall, c.ran = c.wall.Add(d), c.ran+d }

func (c *testClock) in(cfg Config) Config {
	cfg.Now = func() time.Time { return c.wall }
	cfg.Elapsed = func() time.Duration { return c.ran }
	return cfg
}

// timeOf returns the time of an entry.
func timeOf(t *testing.T, l *Ledger, seq int64) time.Time {
	t.Helper()
	e, err := l.Entries(context.Background(), seq, 1)
	must(t, err)
	return e[0].Time
}

// TestClockWhileRunning: a clock that goes back a little dates entries as the newest one;
// one that goes back further, or jumps either way, dates none until it is right again.
func TestClockWhileRunning(t *testing.T) {
	for name, c := range map[string]struct {
		step time.Duration
		safe bool
	}{
		"back a little": {-behindMax, true}, "back": {-behindMax - time.Second, false}, "back a day": {-24 * time.Hour, false},
		"on a little": {jumpMax, true}, "on": {jumpMax + time.Second, false}, "on a year": {365 * 24 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock := &testClock{wall: start}
			l := mustOpen(t, clock.in(config(t, newStore(t))))
			mustDo(t, l, mark("before"))
			clock.wall = start.Add(c.step)
			_, err := l.Do(context.Background(), mark("meanwhile"))
			if c.safe {
				must(t, err)
				if at := timeOf(t, l, 1); at.Before(start) {
					t.Errorf("time goes back to %v", at)
				}
				must(t, l.Ready())
				return
			}
			if fault.CodeOf(err) != fault.ClockUnsafe || fault.CodeOf(l.Ready()) != fault.ClockUnsafe || l.Size() != 1 {
				t.Fatalf("%v, ready: %v, %d entries", err, l.Ready(), l.Size())
			}
			if _, err := l.Checkpoint(context.Background()); fault.CodeOf(err) != fault.ClockUnsafe {
				t.Errorf("a checkpoint is dated by a wrong clock: %v", err)
			}
			clock.wall = start.Add(time.Second)
			must(t, l.Ready())
			mustDo(t, l, mark("after"))
		})
	}
}

// TestClockIsWatched: a jump is seen although nobody asks, and the log says when it was
// over. What a daemon corrects by and by is no jump.
func TestClockIsWatched(t *testing.T) {
	clock := &testClock{wall: start}
	l := mustOpen(t, clock.in(config(t, newStore(t))))
	for range 10 {
		clock.run(time.Hour)
		clock.wall = clock.wall.Add(jumpMax / 2)
		l.routine(context.Background())
	}
	must(t, l.Ready())
	right := clock.wall
	clock.wall = right.Add(time.Hour)
	l.routine(context.Background())
	if l.Size() != 0 {
		t.Errorf("%d entries while the clock is wrong", l.Size())
	}
	clock.wall = right
	l.routine(context.Background())
	l.routine(context.Background())
	e, err := l.Entries(context.Background(), 0, 2)
	must(t, err)
	if len(e) != 1 || e[0].Operation != "log.clock" {
		t.Errorf("the log says %+v", e)
	}
}

// TestClockAtStart: a process whose clock is behind the log does not open it. One whose
// clock is far ahead cannot be told from one that comes late.
func TestClockAtStart(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	mustDo(t, l, mark("before"))
	must(t, l.Close(context.Background()))
	clock := &testClock{wall: start.Add(-behindMax - time.Second)}
	if _, err := Open(context.Background(), clock.in(config(t, s))); fault.CodeOf(err) != fault.ClockUnsafe {
		t.Errorf("a clock behind the log: %v", err)
	}
	clock.wall = start.Add(24 * time.Hour)
	mustDo(t, mustOpen(t, clock.in(config(t, s))), mark("later"))
}

// TestClockOfAnotherNode: what another node wrote bounds the time too.
func TestClockOfAnotherNode(t *testing.T) {
	dir := t.TempDir()
	open := func(name string, c *testClock) (*Ledger, store.Store) {
		s := openDir(t, dir)
		t.Cleanup(func() { must(t, s.Close()) })
		cfg := c.in(config(t, s))
		cfg.Node = name
		return mustOpen(t, cfg), s
	}
	early, late := &testClock{wall: start}, &testClock{wall: start.Add(3 * time.Second)}
	a, _ := open("a", early)
	b, _ := open("b", late)
	mustDo(t, b, mark("by-b"))
	mustDo(t, a, mark("by-a"))
	if got := timeOf(t, a, 1); !got.Equal(late.wall) {
		t.Errorf("the entry after one of %v has %v", late.wall, got)
	}
	late.run(10 * time.Second)
	mustDo(t, b, mark("by-b-again"))
	if _, err := a.Do(context.Background(), func(store.Rows) (audit.Entry, error) { return entry("by-a-again"), nil }); fault.CodeOf(err) != fault.ClockUnsafe {
		t.Errorf("a clock 10 seconds behind another node's: %v", err)
	}
	early.run(13 * time.Second)
}
