package ledger

import (
	"context"
	"fmt"
	"log/slog"

	"cardkms/audit"
	"cardkms/kms/store"
)

// Restoration is the decision of officers to go on with an older database.
type Restoration struct {
	// Approve says whether officers accept the step. It is asked while nothing was
	// written yet, of a database that was compared with all that protects it but its
	// anchors; the ledger serves it for reading only. It returns the details of the
	// entry that tells of the restoration, so that everybody can judge it again.
	Approve func(ctx context.Context, l *Ledger, g Gap) (detail map[string]string, err error)

	detail map[string]string // what Approve returned; owned by Open
}

// Gap is what a restoration gives up: from the newest checkpoint that an anchor keeps to
// the log as the database has it. Their Extensions are not set.
type Gap struct{ From, To audit.Checkpoint }

// approve has officers judge the step back, if there is one.
func (l *Ledger) approve(ctx context.Context, behind []*Violation) error {
	if len(behind) == 0 {
		return nil
	}
	g := Gap{To: audit.Checkpoint{Origin: l.cfg.Origin, Size: l.currentState().head.size, Root: l.currentState().head.root}}
	var err error
	if g.From, err = l.newestAnchored(ctx); err != nil {
		return err
	}
	l.cfg.Restore.detail, err = l.cfg.Restore.Approve(ctx, l, g)
	return err
}

// restore says in the log from where to where it went, and has the anchors keep
// the log as it is now. If the process dies before the entry is durable, nothing
// happened. If it dies before the anchors keep it, they are ahead of the log still, of
// a log that has one more entry: officers decide about that one anew.
func (l *Ledger) restore(ctx context.Context, behind []*Violation) error {
	for _, v := range behind {
		l.cfg.Logger.Warn("audit log: officers accept an older database", slog.Any("violation", v))
	}
	e := audit.Entry{
		Actor: audit.ActorService, Role: "console", Origin: audit.OriginConsole, Operation: "log.restore", Object: "audit",
		Decision: audit.Allowed, Outcome: audit.OutcomeOK, Detail: l.cfg.Restore.detail,
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
		l.holds(a.Name)
	}
	return nil
}

// newestAnchored returns the checkpoint with the most entries that an anchor keeps.
func (l *Ledger) newestAnchored(ctx context.Context) (newest audit.Checkpoint, err error) {
	for _, a := range l.cfg.Anchors {
		kept, err := a.Newest(ctx)
		if err != nil {
			return newest, err
		}
		for _, note := range kept {
			c, err := audit.OpenCheckpoint(note, l.cfg.Origin, l.cfg.Verifier)
			if err == nil && c.Size >= newest.Size {
				newest = audit.Checkpoint{Origin: c.Origin, Size: c.Size, Root: c.Root}
			}
		}
	}
	return newest, nil
}
