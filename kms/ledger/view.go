package ledger

import (
	"context"

	"cardkms/kms/store"
)

// View runs f on rows of one moment. Every row that f reads is compared with the
// state map of that moment; one that is not what was written is
// fault.ObjectTampered.
func (l *Ledger) View(ctx context.Context, f func(store.Rows) error) error {
	if err := l.refused(); err != nil {
		return err
	}
	return l.detect(l.view(ctx, func(tx store.Tx, st *state) error { return f(newRows(tx, st.rows)) }))
}
