package ledger

import (
	"context"
	"fmt"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// Leaves returns the encodings of at most limit entries from sequence from on,
// as an export needs them.
func (l *Ledger) Leaves(ctx context.Context, from int64, limit int) (leaves [][]byte, err error) {
	if from < 0 || limit < 0 {
		return nil, fault.New(fault.InvalidInput, "from and limit must not be negative")
	}
	limit = int(min(int64(limit), max(0, l.Size()-from)))
	err = l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		leaves, err = tx.Leaves(from, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading entries from %d: %w", from, err)
	}
	if len(leaves) < limit {
		return nil, fmt.Errorf("%w: entry %d is missing", ErrTampered, from+int64(len(leaves)))
	}
	return leaves, nil
}

// Entries returns at most limit entries from sequence from on. It checks form
// and sequence; that they are the signed ones is for a proof to show.
func (l *Ledger) Entries(ctx context.Context, from int64, limit int) ([]audit.Entry, error) {
	leaves, err := l.Leaves(ctx, from, limit)
	if err != nil {
		return nil, err
	}
	entries := make([]audit.Entry, len(leaves))
	for i, leaf := range leaves {
		e, err := audit.ParseEntry(leaf)
		if err != nil || e.Sequence != from+int64(i) {
			return nil, fmt.Errorf("%w: entry %d is not readable", ErrTampered, from+int64(i))
		}
		entries[i] = e
	}
	return entries, nil
}

// InclusionProof proves that the tree of this size holds the entry.
func (l *Ledger) InclusionProof(ctx context.Context, seq, size int64) (proof tlog.RecordProof, err error) {
	if seq < 0 || seq >= size || size > l.Size() {
		return nil, fault.New(fault.InvalidInput, "the log has no such entry or no such size")
	}
	err = l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		proof, err = audit.ProveEntry(size, seq, reader(tx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proving entry %d: %w", seq, err)
	}
	return proof, nil
}

// ConsistencyProof proves that the tree of size newer starts with that of size
// older.
func (l *Ledger) ConsistencyProof(ctx context.Context, older, newer int64) (proof tlog.TreeProof, err error) {
	if older < 0 || older > newer || newer > l.Size() {
		return nil, fault.New(fault.InvalidInput, "the log has no such sizes")
	}
	err = l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		proof, err = audit.ProveGrowth(newer, older, reader(tx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proving the growth from %d to %d: %w", older, newer, err)
	}
	return proof, nil
}
