package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cardkms/audit"
	"cardkms/kms/store"
)

// CheckpointRef names the row that holds the newest signed checkpoint.
var CheckpointRef = store.Ref{Kind: "checkpoint", ID: "latest"}

// signedCheckpoint is what the checkpoint row holds.
type signedCheckpoint struct {
	note    []byte
	version int64      // of the row
	edge    audit.Edge // of the tree that it signs
}

// Checkpoint returns the newest signed checkpoint, which covers everything that
// was durable at the call. It signs only if the log has grown, and only what it
// has read back: a bit that flipped between hashing and storing must show before
// the signature makes it final.
//
// If the process dies after signing and before storing, nobody has seen the
// signature, and the next checkpoint covers the same entries.
func (l *Ledger) Checkpoint(ctx context.Context) ([]byte, error) {
	select {
	case <-l.sign:
		defer func() { l.sign <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	head := l.durable()
	if head.Size() > l.signed.edge.Size() {
		if err := l.signHead(ctx, head); err != nil {
			return nil, fmt.Errorf("making a checkpoint of %d entries: %w", head.Size(), err)
		}
	}
	return bytes.Clone(l.signed.note), nil
}

// signHead reads back what is new, signs and stores.
func (l *Ledger) signHead(ctx context.Context, head audit.Edge) error {
	edge := l.signed.edge.Clone()
	if err := l.rehash(ctx, &edge, head); err != nil {
		return err
	}
	return l.signEdge(ctx, edge)
}

func (l *Ledger) signEdge(ctx context.Context, edge audit.Edge) error {
	c := audit.Checkpoint{Origin: l.cfg.Origin, Size: edge.Size(), Root: edge.Root()}
	msg, err := audit.SignCheckpoint(c, l.cfg.Signer)
	if err != nil {
		return err
	}
	if _, err := audit.OpenCheckpoint(msg, l.cfg.Origin, l.cfg.Verifier); err != nil {
		return fmt.Errorf("the Signer's key is not the Verifier's: %w", err)
	}
	stored, err := l.storeCheckpoint(ctx, signedCheckpoint{note: msg, version: l.signed.version + 1, edge: edge})
	if err != nil {
		return fmt.Errorf("storing it: %w", err)
	}
	l.signed = stored
	return nil
}

// storeCheckpoint writes the row and returns what is stored then: c, or one by
// another node that covers as much. A lost answer is looked up.
func (l *Ledger) storeCheckpoint(ctx context.Context, c signedCheckpoint) (signedCheckpoint, error) {
	for {
		cause := l.cfg.Store.Update(ctx, func(tx store.Tx) error {
			return tx.Put(store.Row{Ref: CheckpointRef, Version: c.version, Body: c.note})
		})
		if cause == nil {
			return c, nil
		}
		if !errors.Is(cause, store.ErrUnknown) && !errors.Is(cause, store.ErrVersion) {
			return signedCheckpoint{}, cause
		}
		var stored signedCheckpoint
		err := l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
			stored, err = l.readCheckpoint(tx)
			return errors.Join(err, startsWith(tx, c.edge))
		})
		if err != nil {
			return signedCheckpoint{}, errors.Join(cause, err)
		}
		if stored.version >= c.version && stored.edge.Size() >= c.edge.Size() {
			return stored, nil
		}
		if stored.version < c.version {
			return signedCheckpoint{}, cause // it was not applied; the next call tries again
		}
		c.version = stored.version + 1 // another node stored a smaller one, and rows only grow
	}
}

// readCheckpoint returns the stored checkpoint after checking its signature and
// that the stored tree is the one that it signs; or store.ErrNotFound.
func (l *Ledger) readCheckpoint(tx store.Tx) (signedCheckpoint, error) {
	row, err := tx.Get(CheckpointRef)
	if err != nil {
		return signedCheckpoint{}, err
	}
	c, err := audit.OpenCheckpoint(row.Body, l.cfg.Origin, l.cfg.Verifier)
	if err != nil {
		return signedCheckpoint{}, fmt.Errorf("%w: the stored checkpoint: %w", ErrTampered, err)
	}
	size, err := tx.Size()
	if err != nil {
		return signedCheckpoint{}, err
	}
	if size < c.Size {
		return signedCheckpoint{}, fmt.Errorf("%w: it has %d entries, and the checkpoint signs %d", ErrTampered, size, c.Size)
	}
	edge, err := readEdge(tx, c.Size, audit.Edge{})
	if err != nil {
		return signedCheckpoint{}, err
	}
	if edge.Root() != c.Root {
		return signedCheckpoint{}, fmt.Errorf("%w: its first %d entries have another root than the checkpoint signs", ErrTampered, c.Size)
	}
	return signedCheckpoint{note: row.Body, version: row.Version, edge: edge}, nil
}

// signRegularly signs a log that has grown, every CheckpointEvery.
func (l *Ledger) signRegularly(ctx context.Context) {
	if l.cfg.CheckpointEvery < 0 {
		return
	}
	ticker := time.NewTicker(l.cfg.CheckpointEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if _, err := l.Checkpoint(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Error("audit log: no checkpoint", slog.Any("error", err))
		}
	}
}
