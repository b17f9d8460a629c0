package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cardkms/audit"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// errNothing rolls back a group in which no change succeeded.
var errNothing = errors.New("ledger: nothing to commit")

// group is one attempt to commit. Its fields are set inside the transaction and
// mean something only if that was committed.
type group struct {
	l       *Ledger
	edge    audit.Edge // after the group
	first   int64      // sequence of the first entry
	leaves  [][]byte
	members []*request // those whose entry is in leaves, in the same order
}

// commit runs a group and answers each request exactly once.
//
// If the process dies before the store has committed, no change of the group
// happened and nobody was answered. If it dies after that, all of them happened,
// and their callers find out by reading.
func (l *Ledger) commit(requests []*request) {
	waiting := requests[:0:0]
	for _, r := range requests {
		if r.taken.CompareAndSwap(false, true) {
			waiting = append(waiting, r)
		}
	}
	if len(waiting) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), GroupTimeout)
	defer cancel()
	g := &group{l: l}
	err := l.refresh(ctx)
	if err == nil {
		err = l.cfg.Store.Update(ctx, func(tx store.Tx) error { return g.apply(tx, waiting) })
	}
	switch {
	case errors.Is(err, errNothing):
		err = nil
	case err == nil:
		l.setHead(g.edge)
	default:
		err = g.resolve(ctx, err)
	}
	g.answer(waiting, err)
}

// apply runs the changes one after the other. A store may call it again.
func (g *group) apply(tx store.Tx, requests []*request) error {
	head := g.l.durable()
	edge, err := follow(tx, head)
	if err != nil {
		return err
	}
	*g = group{l: g.l, edge: edge, first: edge.Size()}
	for _, r := range requests {
		leaf, err := g.change(tx, r)
		if err != nil {
			return err
		}
		if leaf == nil {
			continue
		}
		seq := g.edge.Size()
		if err := tx.AppendLeaf(seq, leaf, plain(g.edge.Append(audit.LeafHash(leaf)))); err != nil {
			return fmt.Errorf("appending entry %d: %w", seq, err)
		}
		g.leaves = append(g.leaves, leaf)
		g.members = append(g.members, r)
	}
	if len(g.members) > 0 {
		return nil
	}
	if _, err := tx.Size(); err != nil { // the changes may have failed because the store did
		return err
	}
	return errNothing
}

// change runs one change and encodes its entry. It returns nil if the change
// failed, and an error only if the store did.
func (g *group) change(tx store.Tx, r *request) (leaf []byte, err error) {
	r.err, r.panicked = nil, nil
	err = tx.Try(func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				r.panicked, r.err = p, errors.New("ledger: the change panicked")
				err = r.err
			}
		}()
		var e audit.Entry
		if e, r.err = r.change(tx); r.err != nil {
			return r.err
		}
		e.Sequence, e.Time = g.edge.Size(), g.l.cfg.Now().UTC().Round(0)
		leaf, r.err = e.Encode()
		return r.err
	})
	switch {
	case err == nil:
		return leaf, nil
	case r.err != nil && errors.Is(err, r.err):
		return nil, nil
	}
	return nil, fmt.Errorf("undoing a change: %w", err)
}

// resolve finds out what a failed commit did, and returns nil if it was applied
// after all. Whatever it finds, the next group reads the head again.
func (g *group) resolve(ctx context.Context, cause error) error {
	l := g.l
	l.stale = true
	l.cfg.Logger.Error("audit log: committing a group failed", slog.Int("changes", len(g.members)), slog.Any("error", cause))
	if !errors.Is(cause, store.ErrUnknown) {
		return cause
	}
	applied, err := g.applied(context.WithoutCancel(ctx))
	switch {
	case err != nil:
		return errors.Join(cause, fmt.Errorf("reading back: %w", err))
	case applied:
		l.setHead(g.edge)
		return nil
	}
	return errNotApplied{cause}
}

// errNotApplied hides that the outcome was unknown, for it is known now.
type errNotApplied struct{ cause error }

// Error formats the cause.
func (e errNotApplied) Error() string {
	return "reading back shows that nothing was committed; before that: " + e.cause.Error()
}

// applied reports whether the store holds exactly this group's leaves.
func (g *group) applied(ctx context.Context) (applied bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, GroupTimeout)
	defer cancel()
	err = g.l.cfg.Store.View(ctx, func(tx store.Tx) error {
		stored, err := tx.Leaves(g.first, len(g.leaves))
		if err != nil {
			return err
		}
		applied = len(g.leaves) > 0 && len(stored) == len(g.leaves)
		for i := 0; applied && i < len(stored); i++ {
			applied = bytes.Equal(stored[i], g.leaves[i])
		}
		return nil
	})
	return applied, err
}

// answer replies to every request. A change that failed by itself keeps its own
// error only if the group was decided, for otherwise it may have failed because
// of the store.
func (g *group) answer(requests []*request, err error) {
	if err != nil {
		err = unavailable(err)
		for _, r := range requests {
			r.panicked = nil
			r.reply(0, err)
		}
		return
	}
	next := 0
	for _, r := range requests {
		if next < len(g.members) && g.members[next] == r {
			r.reply(g.first+int64(next), nil)
			next++
		} else {
			r.reply(0, r.err)
		}
	}
}

// plain turns hashes of the tree into those of the store.
func plain(hashes []tlog.Hash) [][store.HashSize]byte {
	out := make([][store.HashSize]byte, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out
}
