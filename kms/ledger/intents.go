package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"cardkms/audit"
	"cardkms/kms/store"
)

// detailNode names the node that an intent is under way on.
const detailNode = "node"

// abandoned is how long a process sees an intent open before it closes it, whoever's it is:
// no operation takes as long, so the node that began it does not come back under its name.
// It is measured by one clock, so that a node whose clock is ahead closes nothing early.
const abandoned = time.Hour

// errHasOutcome is the answer to whoever does not know how an operation ended when somebody
// does.
var errHasOutcome = errors.New("ledger: the intent has its outcome")

// owned returns the details of an intent with the node that has it.
func (l *Ledger) owned(detail map[string]string) map[string]string {
	if l.cfg.Node == "" {
		return detail
	}
	detail = maps.Clone(detail)
	if detail == nil {
		detail = map[string]string{}
	}
	detail[detailNode] = l.cfg.Node
	return detail
}

// closeOwn closes the intents that this node, which is just starting, left open when it
// died.
func (l *Ledger) closeOwn(ctx context.Context) error {
	for _, seq := range l.currentState().head.open {
		e, err := l.openIntent(ctx, seq)
		if err != nil {
			return err
		}
		if e.Detail[detailNode] != l.cfg.Node {
			continue
		}
		if err := l.closeIntent(ctx, seq, e); err != nil {
			return err
		}
	}
	return nil
}

// closeAbandoned closes the intents that stay open.
func (l *Ledger) closeAbandoned(ctx context.Context) error {
	open, now := l.currentState().head.open, l.cfg.Now()
	maps.DeleteFunc(l.seenOpen, func(seq int64, _ time.Time) bool { return !slices.Contains(open, seq) })
	for _, seq := range open {
		since, seen := l.seenOpen[seq]
		if !seen {
			l.seenOpen[seq] = now
		}
		if !seen || now.Sub(since) < abandoned {
			continue
		}
		e, err := l.openIntent(ctx, seq)
		if err != nil {
			return err
		}
		if err := l.closeIntent(ctx, seq, e); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) openIntent(ctx context.Context, seq int64) (audit.Entry, error) {
	intents, err := l.Entries(ctx, seq, 1)
	if err != nil || len(intents) != 1 {
		return audit.Entry{}, fmt.Errorf("reading the open intent %d: %w", seq, err)
	}
	return intents[0], nil
}

// closeIntent says of an intent that nobody knows how it ended, unless somebody said so
// meanwhile.
func (l *Ledger) closeIntent(ctx context.Context, seq int64, e audit.Entry) error {
	e.Actor, e.Role, e.Origin, e.Outcome, e.Intent = audit.ActorService, "", "", audit.OutcomeUnknown, &seq
	_, err := l.Do(ctx, func(store.Rows) (audit.Entry, error) { return e, nil })
	switch {
	case errors.Is(err, errHasOutcome):
		return nil
	case err != nil:
		return fmt.Errorf("closing the open intent %d: %w", seq, err)
	}
	l.cfg.Logger.Warn("audit log: an operation did not come to its end; whether it happened is not known",
		slog.Int64("intent", seq), slog.String("operation", e.Operation), slog.String("object", e.Object))
	return nil
}
