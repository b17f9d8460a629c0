package ledger

import (
	"context"
	"errors"
	"fmt"

	"cardkms/audit"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// errMissing does not wrap store.ErrNotFound, which says that a row is not there.
var errMissing = fmt.Errorf("%w: hashes of the tree are missing", ErrTampered)

// reader reads the tree's hashes in a transaction.
func reader(tx store.Leaves) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		stored, err := tx.Hashes(indexes)
		if err != nil {
			return nil, err
		}
		hashes := make([]tlog.Hash, len(stored))
		for i, h := range stored {
			hashes[i] = h
		}
		return hashes, nil
	})
}

// follow returns the edge of the log in the store, given the edge that this
// process knows. They differ if a commit was applied whose answer was lost, or
// if another node wrote: the store's log must then start with ours.
func follow(tx store.Tx, known audit.Edge) (audit.Edge, error) {
	size, err := tx.Size()
	if err != nil {
		return audit.Edge{}, err
	}
	if size == known.Size() {
		return known, nil
	}
	return readEdge(tx, size, known)
}

// readEdge reads the edge of the log in the store and checks that the log starts
// with the known one.
func readEdge(tx store.Tx, size int64, known audit.Edge) (audit.Edge, error) {
	if size < known.Size() {
		return audit.Edge{}, fmt.Errorf("%w: it has %d entries, and had %d", ErrTampered, size, known.Size())
	}
	edge, err := audit.LoadEdge(size, reader(tx))
	if errors.Is(err, store.ErrNotFound) {
		return audit.Edge{}, errMissing
	}
	if err != nil {
		return audit.Edge{}, err
	}
	return edge, startsWith(tx, known)
}

// startsWith checks that the stored tree starts with the known one.
func startsWith(tx store.Tx, known audit.Edge) error {
	root, err := tlog.TreeHash(known.Size(), reader(tx))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errMissing
	case err != nil:
		return err
	case root != known.Root():
		return fmt.Errorf("%w: its first %d entries have another root", ErrTampered, known.Size())
	}
	return nil
}

// refresh reads the head again after a group failed.
func (l *Ledger) refresh(ctx context.Context) error {
	if !l.stale {
		return nil
	}
	known := l.durable()
	err := l.cfg.Store.View(ctx, func(tx store.Tx) error {
		size, err := tx.Size()
		if err != nil {
			return err
		}
		known, err = readEdge(tx, size, known)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the head of the log again: %w", err)
	}
	l.setHead(known)
	l.stale = false
	return nil
}
