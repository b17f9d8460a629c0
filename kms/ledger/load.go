package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cardkms/audit"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// scrubPage is the number of leaves that are read in one View, so that no View
// keeps the store's old state for long.
const scrubPage = 1024

// load checks the stored log against its checkpoint and takes it over.
func (l *Ledger) load(ctx context.Context) error {
	var head audit.Edge
	found := false
	err := l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		head, found, err = l.readLog(tx)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		if err := l.signEdge(ctx, audit.Edge{}); err != nil {
			return fmt.Errorf("signing the empty log: %w", err)
		}
	}
	l.setHead(head)
	if unsigned := head.Size() - l.signed.edge.Size(); unsigned > 0 {
		l.cfg.Logger.Warn("audit log: the newest entries are not signed yet; the service did not stop in order", slog.Int64("entries", unsigned))
	}
	if l.cfg.SkipScrub {
		return nil
	}
	return l.Scrub(ctx)
}

// readLog reads checkpoint and edge, and reports whether there is a log.
func (l *Ledger) readLog(tx store.Tx) (head audit.Edge, found bool, err error) {
	size, err := tx.Size()
	if err != nil {
		return head, false, err
	}
	l.signed, err = l.readCheckpoint(tx)
	switch {
	case errors.Is(err, store.ErrNotFound) && size == 0:
		return head, false, nil
	case errors.Is(err, store.ErrNotFound):
		return head, false, fmt.Errorf("%w: it has %d entries and no checkpoint", ErrTampered, size)
	case err != nil:
		return head, false, err
	}
	head, err = readEdge(tx, size, l.signed.edge)
	return head, true, err
}

// Scrub reads the whole log and compares every entry and every stored hash with
// the tree that this process knows. It returns ErrTampered and names the first
// entry that differs. It may run beside everything else.
func (l *Ledger) Scrub(ctx context.Context) error {
	var edge audit.Edge
	return l.rehash(ctx, &edge, l.durable())
}

// rehash appends stored leaves to edge until it has the size of want, compares
// each hash with the stored one, and at the end the edge with want.
func (l *Ledger) rehash(ctx context.Context, edge *audit.Edge, want audit.Edge) error {
	for edge.Size() < want.Size() {
		page := int(min(scrubPage, want.Size()-edge.Size()))
		err := l.cfg.Store.View(ctx, func(tx store.Tx) error { return rehashPage(tx, edge, page) })
		if err != nil {
			return err
		}
	}
	if edge.Root() != want.Root() {
		return fmt.Errorf("%w: its %d entries have another root than was written", ErrTampered, want.Size())
	}
	return nil
}

func rehashPage(tx store.Tx, edge *audit.Edge, limit int) error {
	first := edge.Size()
	leaves, err := tx.Leaves(first, limit)
	if err != nil {
		return err
	}
	if len(leaves) == 0 {
		return fmt.Errorf("%w: entry %d is missing", ErrTampered, first)
	}
	last := first + int64(len(leaves)) - 1
	indexes := make([]int64, 0, 2*len(leaves)+64)
	for i := tlog.StoredHashIndex(0, first); i < tlog.StoredHashCount(last+1); i++ {
		indexes = append(indexes, i)
	}
	stored, err := tx.Hashes(indexes)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: a hash of entries %d to %d is missing", ErrTampered, first, last)
	}
	if err != nil {
		return err
	}
	for i, leaf := range leaves {
		for _, h := range edge.Append(audit.LeafHash(leaf)) {
			if h != tlog.Hash(stored[0]) {
				return fmt.Errorf("%w: entry %d or a hash that was stored with it", ErrTampered, first+int64(i))
			}
			stored = stored[1:]
		}
	}
	return nil
}
