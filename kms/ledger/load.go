package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"cardkms/audit"
	"cardkms/audit/statemap"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// reader reads the tree's hashes in a transaction.
func reader(tx store.Leaves) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		stored, err := tx.Hashes(indexes)
		if errors.Is(err, store.ErrNotFound) {
			return nil, whole("hashes of the log's tree are missing")
		}
		hashes := make([]tlog.Hash, len(stored))
		for i, h := range stored {
			hashes[i] = h
		}
		return hashes, err
	})
}

// view runs f in a View, with the state of that moment.
func (l *Ledger) view(ctx context.Context, f func(tx store.Tx, st *state) error) error {
	floor := l.currentState()
	return l.cfg.Store.View(ctx, func(tx store.Tx) error {
		st, err := l.stateIn(ctx, tx, floor)
		if err != nil {
			return err
		}
		return f(tx, st)
	})
}

// stateIn returns the state that a transaction sees. It differs from the current
// one if a commit was applied whose answer was lost, if another node wrote, or,
// in a View, if a group was committed after the View began. floor is the state
// that was current before the transaction began: what it sees must follow that.
func (l *Ledger) stateIn(ctx context.Context, tx store.Tx, floor *state) (*state, error) {
	row, err := tx.Get(headRef)
	if errors.Is(err, store.ErrNotFound) {
		return nil, whole("the head of the log was deleted")
	}
	if err != nil {
		return nil, err
	}
	if st := l.knownState(row); st != nil {
		// Also a head that this process wrote may have been put back, with its database.
		if floor != nil && (st.version < floor.version || st.version == floor.version && st.text != floor.text) {
			return nil, whole("the log has an older head than it had")
		}
		return st, nil
	}
	return l.follow(ctx, tx, row, floor)
}

// follow reads a state that the token vouches for and this process did not write.
func (l *Ledger) follow(ctx context.Context, tx store.Tx, row store.Row, floor *state) (*state, error) {
	ok, err := l.genuine(ctx, l.headMessage(string(row.Body), row.Version), row.MAC)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, whole("the head of the log was not made by this service's token")
	}
	h, err := parseHead(string(row.Body))
	if err != nil {
		return nil, err
	}
	st := &state{head: h, text: string(row.Body), mac: row.MAC, version: row.Version}
	grown, err := st.grow(tx, floor)
	if err != nil {
		return nil, err
	}
	if !grown {
		if err := st.read(tx, floor); err != nil {
			return nil, err
		}
	}
	l.addState(st)
	return st, nil
}

// growMax is how many entries grow follows; to read everything is less then.
const growMax = 4096

// grow makes this state of a known one, by what was added to that: the hashes of the new
// entries, and the buckets that they say they touched. The head proves that this is all;
// where it does not, nothing is said of what is wrong, and grown is false.
func (s *state) grow(tx store.Tx, known *state) (grown bool, err error) {
	if known == nil || s.head.size <= known.head.size || s.head.size-known.head.size > growMax {
		return false, nil
	}
	leaves, err := tx.Leaves(known.head.size, int(s.head.size-known.head.size))
	if err != nil {
		return false, err
	}
	s.edge, s.blocks, s.rows, s.newest = known.edge.Clone(), known.blocks, known.rows, known.newest
	touched := map[uint16]bool{}
	for _, leaf := range leaves {
		if len(leaf.Hashes) == 0 {
			return false, nil
		}
		if root, ok := blockRoot(s.edge.Append(tlog.Hash(leaf.Hashes[0]))); ok {
			s.blocks = append(s.blocks[:len(s.blocks):len(s.blocks)], root)
		}
		for _, n := range leaf.Touched {
			touched[n] = true
		}
	}
	n := len(leaves)
	if n == 0 {
		return false, nil
	}
	if s.newest, err = newestTime(leaves); err != nil || audit.LeafHash(leaves[n-1].Content) != tlog.Hash(leaves[n-1].Hashes[0]) {
		return false, nil //nolint:nilerr // reading everything names what is wrong
	}
	if err := s.readBuckets(tx, slices.Sorted(maps.Keys(touched))); err != nil {
		return false, err
	}
	size, err := tx.Size()
	return size == s.head.size && s.edge.Root() == s.head.root && s.rows.Root() == s.head.state, err
}

// readBuckets brings the state map up to date where buckets were touched.
func (s *state) readBuckets(tx store.Bulk, touched []uint16) error {
	names := make([]store.Ref, len(touched))
	for i, n := range touched {
		names[i] = bucketRef(int(n))
	}
	buckets, err := tx.GetAll(names)
	for i, row := range buckets {
		s.rows = s.rows.With(int(touched[i]), statemap.BucketDigest(row.Body))
	}
	return err
}

// read reads the whole state, and compares it with its head and with a known one.
func (s *state) read(tx store.Tx, known *state) error {
	if err := s.readLog(tx); err != nil {
		return err
	}
	if err := s.readMap(tx); err != nil {
		return err
	}
	if err := s.readNewest(tx); err != nil {
		return err
	}
	if known == nil {
		return nil
	}
	return follows(tx, s, known)
}

// readNewest reads the time of the last entry, from a block that is compared.
func (s *state) readNewest(tx store.Leaves) error {
	if s.head.size == 0 {
		return nil
	}
	leaves, err := s.block(tx, (s.head.size-1)&^(blockEntries-1))
	if err == nil {
		s.newest, err = newestTime(leaves)
	}
	return err
}

// follows checks that a state is one that may come after a known one.
func follows(tx store.Tx, st, known *state) error {
	switch {
	case st.head.size < known.head.size:
		return whole("the log has %d entries and had %d", st.head.size, known.head.size)
	case st.head.size == known.head.size && st.text != known.text:
		return whole("the log has two heads at %d entries", st.head.size)
	}
	return startsWith(tx, st, known.head.size, known.head.root)
}

// sized compares the number of entries with the head.
func (s *state) sized(tx store.Leaves) error {
	size, err := tx.Size()
	if err == nil && size != s.head.size {
		err = whole("the log has %d entries, and its head says %d", size, s.head.size)
	}
	return err
}

// readLog reads edge and blocks of the log and compares them with the head.
func (s *state) readLog(tx store.Tx) (err error) {
	if err := s.sized(tx); err != nil {
		return err
	}
	size := s.head.size
	if s.edge, err = audit.LoadEdge(size, reader(tx)); err != nil {
		return err
	}
	if s.edge.Root() != s.head.root {
		return whole("the hashes of the log's tree were changed")
	}
	indexes := make([]int64, size/blockEntries)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(blockLevel, int64(i))
	}
	if s.blocks, err = reader(tx).ReadHashes(indexes); err != nil {
		return err
	}
	return s.checkBlocks(tx)
}

// checkBlocks compares the roots of the blocks with the tree of their entries,
// whose edge is part of the edge that was compared with the head.
func (s *state) checkBlocks(tx store.Leaves) error {
	var above audit.Edge
	for _, b := range s.blocks {
		above.Append(b)
	}
	root, err := tlog.TreeHash(above.Size()*blockEntries, reader(tx))
	if err != nil {
		return err
	}
	if above.Root() != root {
		return whole("the hashes of the log's tree were changed")
	}
	return nil
}

// mapPage is how many buckets are read at a time.
const mapPage = 1024

// readMap reads the state map and compares it with the head.
func (s *state) readMap(tx store.Rows) error {
	m := statemap.Map{}
	err := eachBucket(tx, func(n int, row store.Row) error {
		m = m.With(n, statemap.BucketDigest(row.Body))
		return nil
	})
	if err != nil {
		return err
	}
	if m.Root() != s.head.state {
		return whole("the state map is not the one of the log's head: rows were put back, or buckets changed")
	}
	s.rows = m
	return nil
}

func eachBucket(tx store.Rows, f func(n int, row store.Row) error) error {
	for after := ""; ; {
		page, err := tx.List(kindStateMap, "", after, mapPage)
		if err != nil {
			return err
		}
		for _, row := range page {
			n := 0
			if _, err := fmt.Sscanf(row.ID, "%04x", &n); err != nil || bucketRef(n).ID != row.ID {
				return &Violation{Ref: row.Ref, What: "was never written by the service"}
			}
			if err := f(n, row); err != nil {
				return err
			}
		}
		if len(page) < mapPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// startsWith checks that the log of a state starts with the tree of this size and
// root.
func startsWith(tx store.Leaves, st *state, size int64, root tlog.Hash) error {
	newer := audit.Checkpoint{Size: st.head.size, Root: st.head.root}
	proof, err := audit.ProveGrowth(st.head.size, size, reader(tx))
	if err != nil {
		return err
	}
	if audit.CheckGrowth(proof, newer, audit.Checkpoint{Size: size, Root: root}) != nil {
		return whole("the first %d entries of the log have another root than was signed", size)
	}
	return nil
}

// refresh reads the head again after a group failed.
func (l *Ledger) refresh(ctx context.Context) error {
	if !l.stale {
		return nil
	}
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	l.stale = false
	return nil
}

// catchUp reads what other nodes have added.
func (l *Ledger) catchUp(ctx context.Context) error {
	err := l.view(ctx, func(_ store.Tx, st *state) error { l.setCurrent(st); return nil })
	if err != nil {
		return fmt.Errorf("reading the head of the log again: %w", err)
	}
	return nil
}

// load reads the state of the log, and makes an empty log where there is nothing.
func (l *Ledger) load(ctx context.Context) error {
	fresh, err := l.readNewest(ctx)
	if err != nil || !fresh {
		return err
	}
	return l.create(ctx)
}

// readNewest reads the state of the log, unless there is nothing.
func (l *Ledger) readNewest(ctx context.Context) (fresh bool, err error) {
	err = l.cfg.Store.View(ctx, func(tx store.Tx) error {
		var err error
		if fresh, err = empty(tx); err != nil || fresh {
			return err
		}
		st, err := l.stateIn(ctx, tx, nil)
		if err != nil {
			return err
		}
		l.setCurrent(st)
		c, err := l.readCheckpoint(tx, st, CheckpointRef)
		if errors.Is(err, store.ErrNotFound) {
			return whole("the log has %d entries and no checkpoint", st.head.size)
		}
		l.isSigned(c)
		return err
	})
	return fresh, err
}

// empty reports whether the database holds nothing at all.
func empty(tx store.Tx) (bool, error) {
	rows, err := tx.All(store.Ref{}, 1)
	if err != nil {
		return false, err
	}
	size, err := tx.Size()
	return size == 0 && len(rows) == 0, err
}

// create makes the head and the checkpoint of an empty log, in one transaction,
// so that a log without either is known to have lost it. A lost answer is looked
// up; if nothing is there, the next start tries again.
func (l *Ledger) create(ctx context.Context) error {
	st := emptyState()
	macs, err := l.macs(ctx, [][]byte{l.headMessage(st.text, st.version)})
	if err != nil {
		return err
	}
	st.mac = macs[0]
	note, err := l.signState(st)
	if err != nil {
		return fmt.Errorf("signing the empty log: %w", err)
	}
	err = l.cfg.Store.Update(ctx, func(tx store.Tx) error {
		return errors.Join(
			tx.Put(st.row()),
			tx.Put(store.Row{Ref: CheckpointRef, Version: 1, Body: note}),
		)
	})
	if errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrVersion) {
		fresh, rerr := l.readNewest(ctx)
		if fresh || rerr != nil {
			return errors.Join(err, rerr)
		}
		return nil
	}
	if err != nil {
		return err
	}
	l.setCurrent(st)
	l.isSigned(signedCheckpoint{note: note, version: 1, size: 0, root: st.head.root})
	return nil
}
