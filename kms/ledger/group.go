package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cardkms/audit"
	"cardkms/audit/statemap"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// errNothing rolls back a group in which no change succeeded.
var errNothing = errors.New("ledger: nothing to commit")

// IntentsMax is the greatest number of open intents. They stand in the head.
const IntentsMax = 1024

// group is one attempt to commit. Its fields are set inside the transaction and
// mean something only if that was committed.
type group struct {
	l       *Ledger
	ctx     context.Context // of the attempt
	before  *state
	after   *state
	edge    audit.Edge
	blocks  []tlog.Hash
	open    []int64
	first   int64     // first entry whose content stays
	newest  time.Time // of the last entry
	leaves  []store.Leaf
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
	g := &group{l: l, ctx: ctx}
	began := time.Now()
	err := l.attempt(ctx, g, waiting)
	if l.cfg.OnGroup != nil {
		l.cfg.OnGroup(Group{Entries: len(g.members), Took: time.Since(began), Err: err})
	}
	g.answer(waiting, err)
}

func (l *Ledger) attempt(ctx context.Context, g *group, waiting []*request) error {
	if err := l.refused(); err != nil {
		return err
	}
	if err := l.refresh(ctx); err != nil {
		return l.detect(err)
	}
	err := l.cfg.Store.Update(ctx, func(tx store.Tx) error { return g.apply(tx, waiting) })
	switch {
	case errors.Is(err, errNothing):
		return nil
	case err == nil:
		l.setCurrent(g.after)
		return nil
	}
	return l.detect(g.resolve(err))
}

// apply runs the changes one after the other. A store may call it again.
func (g *group) apply(tx store.Tx, requests []*request) error {
	before, err := g.l.stateIn(g.ctx, tx, g.l.currentState())
	if err != nil {
		return err
	}
	if err := before.sized(tx); err != nil {
		return err
	}
	*g = group{l: g.l, ctx: g.ctx, before: before, edge: before.edge.Clone(), blocks: before.blocks, open: before.head.open, first: before.head.first, newest: before.newest}
	rows := newRows(tx, before.rows)
	for _, r := range requests {
		leaf := g.change(rows, r)
		if leaf == nil {
			continue
		}
		stored := g.edge.Append(audit.LeafHash(leaf))
		if root, ok := blockRoot(stored); ok {
			g.blocks = append(g.blocks[:len(g.blocks):len(g.blocks)], root)
		}
		g.leaves = append(g.leaves, store.Leaf{Content: leaf, Hashes: plain(stored), Touched: rows.touched()})
		g.members = append(g.members, r)
	}
	if len(g.members) > 0 {
		defer g.ackEarly(requests)
		return g.write(tx, rows)
	}
	if _, err := tx.Size(); err != nil { // the changes may have failed because the store did
		return err
	}
	return errNothing
}

// change runs one change and encodes its entry. It returns nil, with the reason in
// r, if the change failed.
func (g *group) change(rows *rows, r *request) (leaf []byte) {
	r.err, r.panicked = nil, nil
	defer func() {
		if p := recover(); p != nil {
			r.panicked, r.err, leaf = p, errors.New("ledger: the change panicked"), nil
		}
	}()
	rows.begin()
	e, err := r.change(rows)
	if err != nil {
		r.err = g.l.detect(err)
		return nil
	}
	if e.Outcome == audit.OutcomeUnknown && e.Intent != nil && !slices.Contains(g.open, *e.Intent) {
		r.err = errHasOutcome
		return nil
	}
	seq := g.edge.Size()
	e.Sequence = seq
	if e.Time, r.err = g.l.clock.read(g.newest); r.err != nil {
		return nil
	}
	if e.Outcome == audit.OutcomePending {
		e.Detail = g.l.owned(e.Detail)
	}
	if e.Previous, e.State, err = rows.digests(); err != nil {
		r.err = g.l.detect(err)
		return nil
	}
	open := withIntent(g.open, seq, e)
	if len(open) > IntentsMax {
		r.err = fault.New(fault.RateLimited, "too many operations are under way")
		return nil
	}
	if leaf, r.err = e.Encode(); r.err != nil {
		return nil
	}
	g.open, g.first, g.newest = open, max(g.first, r.emptied), e.Time
	rows.keep()
	return leaf
}

// write has the token vouch for the group, and gives the store all of it.
func (g *group) write(tx store.Tx, rows *rows) error {
	changed := rows.changed()
	if err := g.sealRows(changed); err != nil {
		return err
	}
	buckets, after, err := rows.update(changed)
	if err != nil {
		return err
	}
	g.after = g.before.next(g.edge, g.blocks, after, g.open, g.first)
	g.after.newest = g.newest
	if err := g.sealHead(); err != nil {
		return err
	}
	if err := tx.AppendLeaves(g.before.head.size, g.leaves); err != nil {
		return fmt.Errorf("appending %d entries: %w", len(g.leaves), err)
	}
	if g.first > g.before.head.first {
		if err := tx.EmptyLeaves(g.before.head.first, g.first); err != nil {
			return err
		}
	}
	if err := tx.PutAll(append(append(rows.versions(changed), buckets...), g.after.row())); err != nil {
		return fmt.Errorf("writing %d rows: %w", len(changed)+len(buckets)+1, err)
	}
	g.l.addState(g.after)
	return nil
}

// sealRows sets the MACs of rows.
func (g *group) sealRows(changed []store.Row) error {
	if len(changed) == 0 {
		return nil
	}
	messages := make([][]byte, len(changed))
	for i, row := range changed {
		messages[i] = g.l.rowMessage(row)
	}
	macs, err := g.l.macs(g.ctx, messages)
	for i := range macs {
		changed[i].MAC = macs[i]
	}
	return err
}

func (g *group) sealHead() error {
	macs, err := g.l.macs(g.ctx, [][]byte{g.l.headMessage(g.after.text, g.after.version)})
	if err == nil {
		g.after.mac = macs[0]
	}
	return err
}

// resolve finds out whether a failed commit was applied after all, and returns nil
// then. It looks in an Update: that waits for a commit which is still under way on the
// server. Whatever it finds, the next group reads the head again.
//
// That it does not show is no proof of the contrary: SQLite may have written the commit
// record and failed to synchronise it, and then a process that starts before the next
// commit finds it.
func (g *group) resolve(cause error) error {
	l := g.l
	l.stale = true
	l.cfg.Logger.Error("audit log: committing a group failed", slog.Int("changes", len(g.members)), slog.Any("error", cause))
	if !errors.Is(cause, store.ErrUnknown) || g.after == nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), GroupTimeout)
	defer cancel()
	applied := false
	err := l.cfg.Store.Update(ctx, func(tx store.Tx) (err error) {
		if applied, err = g.isIn(tx); err != nil {
			return err
		}
		return errNothing
	})
	switch {
	case !errors.Is(err, errNothing):
		return errors.Join(cause, fmt.Errorf("reading back: %w", err))
	case applied:
		l.setCurrent(g.after)
		return nil
	}
	return cause
}

// isIn reports whether the log holds the group's entries. Other nodes may have gone on
// from there, so that its head may be a newer one.
func (g *group) isIn(tx store.Leaves) (bool, error) {
	stored, err := tx.Leaves(g.before.head.size, len(g.leaves))
	if err != nil || len(stored) != len(g.leaves) {
		return false, err
	}
	for i, leaf := range stored {
		if !bytes.Equal(leaf.Content, g.leaves[i].Content) {
			return false, nil
		}
	}
	return true, nil
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
			r.reply(g.before.head.size+int64(next), nil)
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

// emptyState is what a log without entries and rows is.
func emptyState() *state {
	return (&state{}).next(audit.Edge{}, nil, statemap.Map{}, nil, 0)
}
