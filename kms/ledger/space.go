package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Disk is where the store keeps its files.
type Disk interface {
	// Used returns how much of the disk is used, in percent.
	Used() (int, error)
	// Reserve takes room that only Release gives back, for the entry which says
	// that the disk is full. It does nothing while the room is taken.
	Reserve() error
	// Release gives the room back.
	Release() error
}

// Watermarks of the disk, in percent used. Each is written into the log when the
// disk passes it upwards. From fullPercent on nothing is done any more, until
// there is room again.
const (
	fullPercent  = 98
	roomyPercent = 90
)

var watermarks = []int{80, 90, 95, fullPercent}

// space is what is known of the disk.
type space struct {
	mark int          // the highest watermark that was passed; the routine's own
	full atomic.Int64 // sequence of the entry that says so, plus 1; 0 for room
	lost atomic.Bool  // a group met a full disk
}

// roomFor refuses a change while the disk is full.
func (l *Ledger) roomFor() error {
	if l.space.full.Load() > 0 || l.space.lost.Load() {
		return fault.New(fault.AuditFull, "there is no room for the audit log; nothing is done until there is")
	}
	return nil
}

// watchDisk compares the disk with its watermarks.
func (l *Ledger) watchDisk(ctx context.Context) {
	if l.cfg.Disk == nil {
		return
	}
	used, err := l.cfg.Disk.Used()
	if err != nil {
		l.cfg.Logger.Error("audit log: the disk cannot be watched", slog.Any("error", err))
		return
	}
	mark := 0
	for _, m := range watermarks {
		if used >= m {
			mark = m
		}
	}
	switch {
	case l.space.full.Load() > 0:
		if used < roomyPercent {
			l.recover(ctx)
		}
	case mark == fullPercent || l.space.lost.Load():
		l.fill(ctx, used)
	case mark > l.space.mark:
		l.cfg.Logger.Warn("audit log: the disk fills up", slog.Int("percent", used))
		if _, ok := l.note(ctx, "log.space", map[string]string{"percent": fmt.Sprint(used)}, nil); !ok {
			mark = l.space.mark // to be said again
		}
	}
	l.space.mark = mark
	if l.space.full.Load() == 0 {
		if err := l.cfg.Disk.Reserve(); err != nil {
			l.cfg.Logger.Error("audit log: no room could be reserved", slog.Any("error", err))
		}
	}
}

// fill gives back the reserved room, writes the entry that says that the disk is
// full, and closes the service.
func (l *Ledger) fill(ctx context.Context, used int) {
	l.cfg.Logger.Error("audit log: the disk is full; nothing is done until there is room", slog.Int("percent", used))
	if err := l.cfg.Disk.Release(); err != nil {
		l.cfg.Logger.Error("audit log: the reserved room is not released", slog.Any("error", err))
		return
	}
	if seq, ok := l.note(ctx, "log.full", map[string]string{"percent": fmt.Sprint(used)}, nil); ok {
		l.space.full.Store(seq + 1)
		l.space.lost.Store(false)
	}
}

// recover says in the log from which entry on nothing was done, and opens the
// service again.
func (l *Ledger) recover(ctx context.Context) {
	since := l.space.full.Load() - 1
	if _, ok := l.note(ctx, "log.recovered", map[string]string{"since": fmt.Sprint(since), "cause": "disk_full"}, &since); ok {
		l.space.full.Store(0)
		l.cfg.Logger.Info("audit log: there is room again")
	}
}

// note appends an entry of the service itself, also while the disk is full.
func (l *Ledger) note(ctx context.Context, operation string, detail map[string]string, closes *int64) (int64, bool) {
	ctx, cancel := context.WithTimeout(ctx, GroupTimeout)
	defer cancel()
	e := audit.Entry{
		Actor: audit.ActorService, Operation: operation, Object: "audit", Decision: audit.Allowed,
		Outcome: audit.OutcomeOK, Intent: closes, Detail: detail,
	}
	seq, err := l.do(ctx, &request{change: func(store.Rows) (audit.Entry, error) { return e, nil }})
	if err != nil {
		l.cfg.Logger.Error("audit log: no entry of the service itself", slog.String("operation", operation), slog.Any("error", err))
	}
	return seq, err == nil
}
