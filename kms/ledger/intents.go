package ledger

import (
	"context"
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

// abandoned is the age at which any node closes an intent: no operation takes as long,
// so the node that began it does not come back under its name.
const abandoned = time.Hour

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

// dead reports whether nobody works on an intent any more: this node, which is just
// starting, had it, or it is too old.
func (l *Ledger) dead(e audit.Entry) bool {
	return e.Detail[detailNode] == l.cfg.Node || l.cfg.Now().Sub(e.Time) > abandoned
}

// closeIntents says of every intent that a dead process left open that nobody
// knows how it ended.
func (l *Ledger) closeIntents(ctx context.Context) error {
	for _, seq := range slices.Clone(l.currentState().head.open) {
		intents, err := l.Entries(ctx, seq, 1)
		if err != nil || len(intents) != 1 {
			return fmt.Errorf("reading the open intent %d: %w", seq, err)
		}
		e := intents[0]
		if !l.dead(e) {
			continue
		}
		l.cfg.Logger.Warn("audit log: an operation did not come to its end; whether it happened is not known",
			slog.Int64("intent", seq), slog.String("operation", e.Operation), slog.String("object", e.Object))
		e.Actor, e.Role, e.Origin, e.Outcome, e.Intent = audit.ActorService, "", "", audit.OutcomeUnknown, &seq
		if _, err := l.Do(ctx, func(store.Rows) (audit.Entry, error) { return e, nil }); err != nil {
			return fmt.Errorf("closing the open intent %d: %w", seq, err)
		}
	}
	return nil
}
