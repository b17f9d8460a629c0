package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cardkms/audit"
	"cardkms/audit/witness"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// Keeper keeps the newest checkpoint somewhere that whoever controls the database
// does not control.
type Keeper interface {
	// Newest returns the checkpoints that are kept; more than one if a process died
	// while it replaced one.
	Newest(ctx context.Context) ([][]byte, error)
	// Keep replaces what is kept. When it returns nil, the checkpoint survives the
	// loss of power; when the process dies, the old one or the new one is kept.
	Keep(ctx context.Context, checkpoint []byte) error
}

// Anchor is a Keeper with the name by which the operator knows it.
type Anchor struct {
	Name string
	Keeper
	// Every is how often a log that has grown is kept there; operations that ask for
	// Anchored do not wait for it.
	Every time.Duration
}

// Witness is the connection to one witness, such as a witness.Client.
type Witness struct {
	Name string
	Cosigner
}

// Cosigner asks a witness; its errors are those of witness.Client.
type Cosigner interface {
	// Cosign sends a checkpoint with the proof that it follows the one of size
	// older, and returns the checkpoint with one more signature.
	Cosign(ctx context.Context, older int64, proof tlog.TreeProof, checkpoint []byte) ([]byte, error)
}

// witnessEvery is how often a log that has grown goes to the witnesses.
const witnessEvery = 10 * time.Second

// anchorState is what is known of an anchor or a witness; owned by who may sign.
type anchorState struct {
	at   time.Time // of the last attempt
	size int64     // of the newest checkpoint there
}

// outsideTimeout bounds one call to an anchor or a witness.
const outsideTimeout = 5 * time.Second

// Anchored signs what is durable and returns when every anchor keeps it. Operations
// that decide about keys, policies or images call it before they answer, so that
// nobody can take them back with an older database.
func (l *Ledger) Anchored(ctx context.Context) error {
	if _, err := l.Checkpoint(ctx); err != nil {
		return err
	}
	if err := l.keepDue(ctx, true); err != nil {
		return fault.Because(fault.AuditUnavailable, "this happened and is in the log, but no anchor outside the database keeps it yet", err)
	}
	return nil
}

// keepDue brings the newest checkpoint to the anchors whose time has come, or now
// to all of them, and to the witnesses whose time has come.
func (l *Ledger) keepDue(ctx context.Context, now bool) error {
	if err := l.takeSign(ctx); err != nil {
		return err
	}
	defer l.giveSign()
	var errs []error
	for _, a := range l.cfg.Anchors {
		if l.due(a.Name, a.Every, now) {
			errs = append(errs, l.keep(ctx, a))
		}
	}
	return errors.Join(append(errs, l.cosign(ctx))...)
}

// holds notes that an anchor or a witness has the newest checkpoint now.
func (l *Ledger) holds(name string) {
	l.anchored[name] = anchorState{at: l.cfg.Now(), size: l.signed.size}
	l.stats.kept(name, l.signed.size, l.cfg.Now())
}

func (l *Ledger) due(name string, every time.Duration, now bool) bool {
	st := l.anchored[name]
	return st.size < l.signed.size && (now || l.cfg.Now().Sub(st.at) >= every)
}

// keep replaces the checkpoint of an anchor, if what is there is ours: whoever
// finds the checkpoint of another log there has met a second copy of the service.
func (l *Ledger) keep(ctx context.Context, a Anchor) error {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	if v, err := l.compareAnchor(ctx, a); err != nil || v != nil {
		if v != nil {
			return l.detect(v)
		}
		return fmt.Errorf("reading the anchor %s: %w", a.Name, err)
	}
	l.anchored[a.Name] = anchorState{at: l.cfg.Now(), size: l.anchored[a.Name].size}
	if err := a.Keep(ctx, l.signed.note); err != nil {
		return fmt.Errorf("keeping a checkpoint in the anchor %s: %w", a.Name, err)
	}
	l.holds(a.Name)
	return nil
}

// compareAnchors returns what the anchors know and the database does not.
func (l *Ledger) compareAnchors(ctx context.Context) (found []*Violation, err error) {
	for _, a := range l.cfg.Anchors {
		ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
		v, err := l.compareAnchor(ctx, a)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("reading the anchor %s: %w", a.Name, err)
		}
		if v != nil {
			found = append(found, v)
		}
	}
	return found, nil
}

// compareAnchor checks that the log starts with every checkpoint that an anchor
// keeps. One that does not verify was put there by somebody else.
func (l *Ledger) compareAnchor(ctx context.Context, a Anchor) (*Violation, error) {
	kept, err := a.Newest(ctx)
	if err != nil {
		return nil, err
	}
	for _, note := range kept {
		c, err := audit.OpenCheckpoint(note, l.cfg.Origin, l.cfg.Verifier)
		if err != nil {
			v := whole("the anchor %s holds a checkpoint that the log's key did not sign", a.Name)
			v.foreign = true
			return v, nil
		}
		err = l.view(ctx, func(tx store.Tx, st *state) error { return st.covers(tx, "the anchor "+a.Name, c) })
		var v *Violation
		if errors.As(err, &v) {
			return v, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// cosign brings the newest checkpoint to the witnesses whose time has come, and
// keeps it with all their signatures. One that cannot be reached delays nobody
// for longer than outsideTimeout.
func (l *Ledger) cosign(ctx context.Context) error {
	msg := l.signed.note
	for _, w := range l.cfg.Witnesses {
		if !l.due(w.Name, witnessEvery, false) {
			continue
		}
		cosigned, err := l.ask(ctx, w, msg)
		if err != nil {
			l.cfg.Logger.Warn("audit log: a witness did not cosign", slog.String("witness", w.Name), slog.Any("error", l.detect(err)))
			continue
		}
		msg = cosigned
	}
	if len(msg) == len(l.signed.note) {
		return nil
	}
	return l.storeCosigned(ctx, msg)
}

// ask has one witness cosign. A witness that saw more entries than there are, or
// others, is evidence against the database.
func (l *Ledger) ask(ctx context.Context, w Witness, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	older := l.anchored[w.Name].size
	l.anchored[w.Name] = anchorState{at: l.cfg.Now(), size: older}
	cosigned, err := l.askFrom(ctx, w, older, msg)
	var seen *witness.SizeError
	if errors.As(err, &seen) && seen.Size <= l.signed.size && seen.Size != older {
		cosigned, err = l.askFrom(ctx, w, seen.Size, msg) // the first call of a life does not know the size
	}
	switch {
	case err == nil:
		l.holds(w.Name)
		return cosigned, nil
	case errors.As(err, &seen) && seen.Size > l.signed.size:
		return nil, whole("the witness %s has cosigned %d entries, and the log has %d", w.Name, seen.Size, l.signed.size)
	case errors.As(err, &seen), errors.Is(err, witness.ErrInconsistent):
		return nil, whole("the witness %s has cosigned another log than this one", w.Name)
	}
	return nil, err
}

func (l *Ledger) askFrom(ctx context.Context, w Witness, older int64, msg []byte) ([]byte, error) {
	var proof tlog.TreeProof
	err := l.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		proof, err = audit.ProveGrowth(l.signed.size, older, reader(tx))
		return err
	})
	if err != nil {
		return nil, err
	}
	return w.Cosign(ctx, older, proof, msg)
}

// storeCosigned keeps a cosigned checkpoint for those who ask for one.
func (l *Ledger) storeCosigned(ctx context.Context, note []byte) error {
	c := signedCheckpoint{note: note, version: 1, size: l.signed.size, root: l.signed.root}
	err := l.cfg.Store.View(ctx, func(tx store.Tx) error {
		row, err := tx.Get(cosignedRef)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		c.version = row.Version + 1
		return err
	})
	if err != nil {
		return err
	}
	_, err = l.storeCheckpoint(ctx, cosignedRef, c)
	return err
}
