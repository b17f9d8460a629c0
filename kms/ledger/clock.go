package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Bounds of a clock that may date entries.
const (
	// behindMax is how far the clock may be behind the newest entry, which another node
	// may have written by a clock of its own. The entry then has the newest one's time.
	behindMax = 5 * time.Second
	// jumpMax is how far the clock may go on from where Config.Elapsed says that it is.
	// What daemons correct by and by is far less.
	jumpMax = time.Minute
)

// clock dates entries, or says that it cannot.
type clock struct {
	now     func() time.Time
	elapsed func() time.Duration // nil if nobody looks for jumps

	mu  sync.Mutex
	at  time.Time     // the last reading that was right, guarded by mu
	ran time.Duration // and what elapsed said then, guarded by mu

	wrong bool // as the routine saw it the last time; the routine's own
}

func (c *clock) init(cfg Config) {
	c.now, c.elapsed, c.at = cfg.Now, cfg.Elapsed, cfg.Now()
	if c.elapsed != nil {
		c.ran = c.elapsed()
	}
}

// read returns the time of what follows an entry of this time: it never goes back. A clock
// that is wrong is fault.ClockUnsafe, until it is right again; a jump that was right is
// believed by the next process.
func (c *clock) read(newest time.Time) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now().UTC().Round(0)
	if behind := newest.Sub(now); behind > behindMax {
		return now, unsafe("the clock is %s behind the newest entry of the log", behind)
	}
	if c.elapsed != nil {
		ran := c.elapsed()
		if jump := now.Sub(c.at) - (ran - c.ran); jump.Abs() > jumpMax {
			return now, unsafe("the clock jumped by %s", jump)
		}
		c.at, c.ran = now, ran
	}
	if now.Before(newest) {
		now = newest
	}
	return now, nil
}

func unsafe(format string, d time.Duration) error {
	return fault.Because(fault.ClockUnsafe, "the clock of the service is wrong; nothing is done until it is right", fmt.Errorf("ledger: "+format, d.Round(time.Second)))
}

// timed reports why the clock cannot date an entry now.
func (l *Ledger) timed() error {
	_, err := l.clock.read(l.currentState().newest)
	return err
}

// watchClock says that the clock is wrong, and in the log that it was.
func (l *Ledger) watchClock(ctx context.Context) {
	err := l.timed()
	switch {
	case err != nil && !l.clock.wrong:
		l.cfg.Logger.Error("audit log: the clock is wrong; nothing is done until it is right", slog.Any("error", err))
		l.clock.wrong = true
	case err == nil && l.clock.wrong:
		l.cfg.Logger.Info("audit log: the clock is right again")
		_, noted := l.note(ctx, "log.clock", nil, nil)
		l.clock.wrong = !noted
	}
}

// newestTime returns the time of the newest of these leaves, the last ones of a log. One
// whose content was emptied tells nothing.
func newestTime(leaves []store.Leaf) (time.Time, error) {
	if len(leaves) == 0 || len(leaves[len(leaves)-1].Content) == 0 {
		return time.Time{}, nil
	}
	e, err := audit.ParseEntry(leaves[len(leaves)-1].Content)
	return e.Time, err
}
