package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"cardkms/audit"
	"cardkms/kms/store"
)

// closeIntents says of every intent that a dead process left open that nobody
// knows how it ended.
func (l *Ledger) closeIntents(ctx context.Context) error {
	for _, seq := range slices.Clone(l.currentState().head.open) {
		intents, err := l.Entries(ctx, seq, 1)
		if err != nil || len(intents) != 1 {
			return fmt.Errorf("reading the open intent %d: %w", seq, err)
		}
		e := intents[0]
		l.cfg.Logger.Warn("audit log: an operation did not come to its end; whether it happened is not known",
			slog.Int64("intent", seq), slog.String("operation", e.Operation), slog.String("object", e.Object))
		e.Actor, e.Role, e.Origin, e.Outcome, e.Intent = audit.ActorService, "", "", audit.OutcomeUnknown, &seq
		if _, err := l.Do(ctx, func(store.Rows) (audit.Entry, error) { return e, nil }); err != nil {
			return fmt.Errorf("closing the open intent %d: %w", seq, err)
		}
	}
	return nil
}
