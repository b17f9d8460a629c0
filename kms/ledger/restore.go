package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cardkms/audit"
	"cardkms/kms/store"
)

// Restoration is the decision of officers to go on with an older database.
type Restoration struct {
	// Officers name the two or more people who decided. Their signatures come with
	// dual control; until then whoever runs the ceremony answers for the names.
	Officers []string
}

var errOfficers = errors.New("ledger: a restoration needs two different officers")

func (r *Restoration) check() error {
	seen := map[string]bool{}
	for _, o := range r.Officers {
		seen[o] = o != ""
	}
	if len(seen) < 2 {
		return errOfficers
	}
	for _, ok := range seen {
		if !ok {
			return errOfficers
		}
	}
	return nil
}

// restore says in the log from where to where it went, and has the anchors keep
// the log as it is now. If the process dies before the anchors do, they are ahead
// of the log still, and the ceremony starts again.
func (l *Ledger) restore(ctx context.Context, behind []*Violation) error {
	if err := l.cfg.Restore.check(); err != nil {
		return err
	}
	for _, v := range behind {
		l.cfg.Logger.Warn("audit log: officers accept an older database", slog.Any("violation", v), slog.Any("officers", l.cfg.Restore.Officers))
	}
	st := l.currentState()
	anchored, err := l.newestAnchored(ctx)
	if err != nil {
		return err
	}
	e := audit.Entry{
		Actor: audit.ActorService, Role: "console", Origin: audit.OriginConsole, Operation: "log.restore", Object: "audit",
		Decision: audit.Allowed, Outcome: audit.OutcomeOK,
		Detail: map[string]string{
			"from_size": fmt.Sprint(anchored), "to_size": fmt.Sprint(st.head.size),
			"officers": strings.Join(l.cfg.Restore.Officers, "+"),
		},
	}
	if _, err := l.Do(ctx, func(store.Rows) (audit.Entry, error) { return e, nil }); err != nil {
		return err
	}
	if _, err := l.Checkpoint(ctx); err != nil {
		return err
	}
	for _, a := range l.cfg.Anchors {
		if err := a.Keep(ctx, l.signed.note); err != nil {
			return fmt.Errorf("keeping the restored log in the anchor %s: %w", a.Name, err)
		}
		l.anchored[a.Name] = anchorState{at: l.cfg.Now(), size: l.signed.size}
	}
	return nil
}

// newestAnchored returns the greatest number of entries that an anchor knows.
func (l *Ledger) newestAnchored(ctx context.Context) (size int64, err error) {
	for _, a := range l.cfg.Anchors {
		kept, err := a.Newest(ctx)
		if err != nil {
			return 0, err
		}
		for _, note := range kept {
			if c, err := audit.OpenCheckpoint(note, l.cfg.Origin, l.cfg.Verifier); err == nil {
				size = max(size, c.Size)
			}
		}
	}
	return size, nil
}
