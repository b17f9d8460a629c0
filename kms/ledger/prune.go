package ledger

import (
	"context"
	"fmt"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Empty removes the content of the entries before a sequence, which an exported
// segment holds, and writes the entry that says so in the same transaction. The
// hashes of the entries stay, so that every proof still works.
func (l *Ledger) Empty(ctx context.Context, before int64, entry audit.Entry) (seq int64, err error) {
	if before <= l.First() || before > l.Size() || before%blockEntries != 0 {
		return 0, fault.New(fault.InvalidInput, fmt.Sprintf("entries are removed in blocks of %d that the log still has", blockEntries))
	}
	if err := l.roomFor(); err != nil {
		return 0, err
	}
	return l.do(ctx, &request{emptied: before, change: func(store.Rows) (audit.Entry, error) { return entry, nil }})
}
