package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// signedCheckpoint is what a checkpoint's row holds.
type signedCheckpoint struct {
	note    []byte
	version int64 // of the row
	size    int64
	root    tlog.Hash
}

// Checkpoint returns the newest signed checkpoint, which covers everything that
// was durable at the call. It signs only if the log has grown, and only what it
// has read back: a bit that flipped between hashing and storing must show before
// the signature makes it final.
//
// If the process dies after signing and before storing, nobody has seen the
// signature, and the next checkpoint covers the same entries.
func (l *Ledger) Checkpoint(ctx context.Context) ([]byte, error) {
	if err := l.refused(); err != nil {
		return nil, err
	}
	if err := l.takeSign(ctx); err != nil {
		return nil, err
	}
	defer l.giveSign()
	if err := l.signNewest(ctx); err != nil {
		return nil, l.detect(err)
	}
	return bytes.Clone(l.signed.note), nil
}

func (l *Ledger) takeSign(ctx context.Context) error {
	select {
	case <-l.sign:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Ledger) giveSign() { l.sign <- struct{}{} }

// signNewest signs the current state if the log has grown.
func (l *Ledger) signNewest(ctx context.Context) error {
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	if l.Size() <= l.signed.size {
		return nil
	}
	st, err := l.readBack(ctx)
	if err != nil {
		return fmt.Errorf("reading back what a checkpoint is to cover: %w", err)
	}
	signed, err := l.signState(st)
	if err != nil {
		return fmt.Errorf("making a checkpoint of %d entries: %w", st.head.size, err)
	}
	c := signedCheckpoint{note: signed, version: l.signed.version + 1, size: st.head.size, root: st.head.root}
	stored, err := l.storeCheckpoint(ctx, CheckpointRef, c)
	if err != nil {
		return fmt.Errorf("storing a checkpoint: %w", err)
	}
	l.isSigned(stored)
	return nil
}

// isSigned notes the newest stored checkpoint.
func (l *Ledger) isSigned(c signedCheckpoint) {
	l.signed = c
	l.stats.signed(c.size, l.cfg.Now())
}

// readBack compares what is new since the last checkpoint with what this process
// knows, and returns the state that it read.
func (l *Ledger) readBack(ctx context.Context) (read *state, err error) {
	err = l.view(ctx, func(tx store.Tx, st *state) error {
		for from := l.signed.size &^ (blockEntries - 1); from < st.head.size; from += blockEntries {
			if _, err := st.block(tx, from); err != nil {
				return err
			}
		}
		read = st
		return nil
	})
	return read, err
}

// signState has the token sign a state. The extension lines are those of the
// package comment.
func (l *Ledger) signState(st *state) ([]byte, error) {
	at, err := l.clock.read(st.newest)
	if err != nil {
		return nil, err
	}
	lines := []string{
		"state " + base64.StdEncoding.EncodeToString(st.head.state[:]),
		"time " + at.Format(time.RFC3339),
	}
	c := audit.Checkpoint{Origin: l.cfg.Origin, Size: st.head.size, Root: st.head.root, Extensions: append(lines, *l.extensions.Load()...)}
	msg, err := audit.SignCheckpoint(c, l.cfg.Signer)
	if err != nil {
		return nil, err
	}
	if _, err := audit.OpenCheckpoint(msg, l.cfg.Origin, l.cfg.Verifier); err != nil {
		return nil, fmt.Errorf("the Signer's key is not the Verifier's: %w", err)
	}
	return msg, nil
}

// storeCheckpoint writes the row and returns what is stored then: c, or one by
// another node that covers as much. A lost answer is looked up.
func (l *Ledger) storeCheckpoint(ctx context.Context, ref store.Ref, c signedCheckpoint) (signedCheckpoint, error) {
	for {
		cause := l.cfg.Store.Update(ctx, func(tx store.Tx) error {
			return tx.Put(store.Row{Ref: ref, Version: c.version, Body: c.note})
		})
		if cause == nil {
			return c, nil
		}
		if !errors.Is(cause, store.ErrUnknown) && !errors.Is(cause, store.ErrVersion) {
			return signedCheckpoint{}, cause
		}
		var stored signedCheckpoint
		err := l.view(ctx, func(tx store.Tx, st *state) (err error) {
			if stored, err = l.readCheckpoint(tx, st, ref); errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			return signedCheckpoint{}, errors.Join(cause, err)
		}
		if stored.version >= c.version && stored.size >= c.size {
			return stored, nil
		}
		if stored.version < c.version {
			return signedCheckpoint{}, cause // it was not applied; the next call tries again
		}
		c.version = stored.version + 1 // another node stored a smaller one, and rows only grow
	}
}

// readCheckpoint returns a stored checkpoint after checking its signature and
// that the log starts with what it signs; or store.ErrNotFound.
func (l *Ledger) readCheckpoint(tx store.Tx, st *state, ref store.Ref) (signedCheckpoint, error) {
	row, err := tx.Get(ref)
	if err != nil {
		return signedCheckpoint{}, err
	}
	c, err := audit.OpenCheckpoint(row.Body, l.cfg.Origin, l.cfg.Verifier)
	if err != nil || len(row.MAC) != 0 {
		return signedCheckpoint{}, whole("the stored checkpoint is not the one that the log's key signed")
	}
	if err := st.covers(tx, "the stored checkpoint", c); err != nil {
		return signedCheckpoint{}, err
	}
	return signedCheckpoint{note: row.Body, version: row.Version, size: c.Size, root: c.Root}, nil
}

// covers checks that the log starts with what a checkpoint signs.
func (s *state) covers(tx store.Tx, name string, c audit.Checkpoint) error {
	if c.Size > s.head.size {
		return whole("%s covers %d entries, and the log has %d", name, c.Size, s.head.size)
	}
	return startsWith(tx, s, c.Size, c.Root)
}

// routine signs a log that has grown and brings it to the anchors that wait.
func (l *Ledger) routine(ctx context.Context) {
	l.watchClock(ctx)
	l.watchDisk(ctx)
	if _, err := l.Checkpoint(ctx); err != nil {
		if ctx.Err() == nil {
			l.cfg.Logger.Error("audit log: no checkpoint", slog.Any("error", err))
		}
		return
	}
	if err := l.keepDue(ctx, false); err != nil && ctx.Err() == nil {
		l.cfg.Logger.Error("audit log: anchoring failed", slog.Any("error", err))
	}
}

// Signed returns what the newest checkpoint says.
func (l *Ledger) Signed(ctx context.Context) (audit.Checkpoint, error) {
	msg, err := l.Checkpoint(ctx)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	return audit.OpenCheckpoint(msg, l.cfg.Origin, l.cfg.Verifier)
}

var errNotText = errors.New("ledger: a text that could be taken for a checkpoint is not signed")

// SignText signs a text that is no checkpoint, such as a report, as a note under
// the log's key. The first line must not be the log's origin.
func (l *Ledger) SignText(text string) ([]byte, error) {
	if first, _, _ := strings.Cut(text, "\n"); first == l.cfg.Origin {
		return nil, errNotText
	}
	return note.Sign(&note.Note{Text: text}, l.cfg.Signer)
}
