package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// block reads the block of entries that starts at from, or what there is of it,
// and compares it with what this process knows. Leaves that were emptied count by
// their stored hash.
func (s *state) block(tx store.Leaves, from int64) ([]store.Leaf, error) {
	to := min(from+blockEntries, s.head.size)
	leaves, err := tx.Leaves(from, int(to-from))
	if err != nil {
		return nil, err
	}
	if missing := from + int64(len(leaves)); missing < to {
		return nil, whole("entry %d is missing", missing)
	}
	edge := audit.Edge{}
	for i, leaf := range leaves {
		seq := from + int64(i)
		hash, err := leafHash(seq, leaf, s.head.first)
		if err != nil {
			return nil, err
		}
		if !same(edge.Append(hash), leaf.Hashes) {
			return nil, whole("a hash that was stored with entry %d was changed", seq)
		}
	}
	if edge.Root() != s.blockRoot(from) {
		return nil, whole("entries %d to %d are not those that were signed", from, to-1)
	}
	return leaves, nil
}

// leafHash returns the hash of a leaf, after comparing it with the stored one.
func leafHash(seq int64, leaf store.Leaf, first int64) (tlog.Hash, error) {
	if len(leaf.Hashes) != 1+bits.TrailingZeros64(^uint64(seq)) {
		return tlog.Hash{}, whole("a hash that was stored with entry %d is missing", seq)
	}
	if seq < first && len(leaf.Content) == 0 {
		return tlog.Hash(leaf.Hashes[0]), nil
	}
	hash := audit.LeafHash(leaf.Content)
	if hash != tlog.Hash(leaf.Hashes[0]) {
		return hash, whole("entry %d was changed, or the hash that was stored with it", seq)
	}
	return hash, nil
}

// same compares hashes with stored ones, of which there may be more: those of
// subtrees larger than a block, which only scrubLog compares.
func same(want []tlog.Hash, stored [][store.HashSize]byte) bool {
	for i, h := range want {
		if h != tlog.Hash(stored[i]) {
			return false
		}
	}
	return true
}

// blockRoot returns the root of the block that starts at from. That of the last
// one, which is not full, is what is left of the edge without the full blocks.
func (s *state) blockRoot(from int64) tlog.Hash {
	if n := from / blockEntries; n < int64(len(s.blocks)) {
		return s.blocks[n]
	}
	return s.edge.Tail(blockLevel)
}

// Leaves returns the encodings of at most limit entries from sequence from on,
// compared with what this process signed, as an export needs them.
func (l *Ledger) Leaves(ctx context.Context, from int64, limit int) ([][]byte, error) {
	if err := l.refused(); err != nil {
		return nil, err
	}
	if from < 0 || limit < 0 {
		return nil, fault.New(fault.InvalidInput, "from and limit must not be negative")
	}
	var out [][]byte
	err := l.view(ctx, func(tx store.Tx, st *state) (err error) {
		if from < st.head.first {
			return fault.New(fault.NotFound, fmt.Sprintf("entries before %d are in exported segments only", st.head.first))
		}
		out, err = st.leaves(tx, from, limit)
		return err
	})
	return out, l.detect(err)
}

func (s *state) leaves(tx store.Leaves, from int64, limit int) (out [][]byte, err error) {
	to := min(s.head.size, from+min(int64(limit), s.head.size))
	for next := from; next < to; {
		start := next &^ (blockEntries - 1)
		block, err := s.block(tx, start)
		if err != nil {
			return nil, err
		}
		for _, leaf := range block[next-start : min(int64(len(block)), to-start)] {
			out = append(out, leaf.Content)
		}
		next = start + blockEntries
	}
	return out, nil
}

// Entries returns at most limit entries from sequence from on.
func (l *Ledger) Entries(ctx context.Context, from int64, limit int) ([]audit.Entry, error) {
	leaves, err := l.Leaves(ctx, from, limit)
	if err != nil {
		return nil, err
	}
	entries := make([]audit.Entry, len(leaves))
	for i, leaf := range leaves {
		if entries[i], err = audit.ParseEntry(leaf); err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", from+int64(i), err)
		}
	}
	return entries, nil
}

// InclusionProof proves that the tree of this size holds the entry.
func (l *Ledger) InclusionProof(ctx context.Context, seq, size int64) (proof tlog.RecordProof, err error) {
	if err := l.known(ctx, size); err != nil {
		return nil, err
	}
	if seq < 0 || seq >= size || size > l.Size() {
		return nil, fault.New(fault.InvalidInput, "the log has no such entry or no such size")
	}
	err = l.proving(ctx, func(tx store.Tx) (err error) {
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
	if err := l.known(ctx, newer); err != nil {
		return nil, err
	}
	if older < 0 || older > newer || newer > l.Size() {
		return nil, fault.New(fault.InvalidInput, "the log has no such sizes")
	}
	err = l.proving(ctx, func(tx store.Tx) (err error) {
		proof, err = audit.ProveGrowth(newer, older, reader(tx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proving the growth from %d to %d: %w", older, newer, err)
	}
	return proof, nil
}

// known catches up with the other nodes if this one knows no log of this size.
func (l *Ledger) known(ctx context.Context, size int64) error {
	if size <= l.Size() {
		return nil
	}
	return l.detect(l.catchUp(ctx))
}

// proving reads hashes for a proof. They are not compared: a proof from changed
// hashes proves nothing, and whoever checks it finds out.
func (l *Ledger) proving(ctx context.Context, f func(store.Tx) error) error {
	if err := l.refused(); err != nil {
		return err
	}
	return l.detect(l.cfg.Store.View(ctx, f))
}

// Witnessed returns the newest checkpoint with the cosignatures of witnesses, or
// fault.NotFound.
func (l *Ledger) Witnessed(ctx context.Context) (note []byte, err error) {
	if err := l.refused(); err != nil {
		return nil, err
	}
	err = l.view(ctx, func(tx store.Tx, st *state) error {
		c, err := l.readCheckpoint(tx, st, cosignedRef)
		note = c.note
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, fault.New(fault.NotFound, "no witness has cosigned a checkpoint yet")
	}
	return note, l.detect(err)
}

// Covers checks that the log starts with what a checkpoint says. Its signature is
// the caller's to check.
func (l *Ledger) Covers(ctx context.Context, c audit.Checkpoint) error {
	if err := l.refused(); err != nil {
		return err
	}
	return l.view(ctx, func(tx store.Tx, st *state) error {
		if c.Size > st.head.size || startsWith(tx, st, c.Size, c.Root) != nil {
			return fault.New(fault.Conflict, "this is the checkpoint of another log")
		}
		return nil
	})
}
