package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"math/bits"

	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

var (
	errBlock  = errors.New("sqlite: a block has a negative number or is too long")
	errHashes = errors.New("sqlite: a leaf comes with its own hash and one for each subtree that it completes")
)

// hashesOf returns the number of hashes that leaf seq adds.
func hashesOf(seq int64) int { return 1 + bits.TrailingZeros64(^uint64(seq)) }

// AppendLeaf stores the next leaf and its hashes; see store.Leaves.
func (t *tx) AppendLeaf(seq int64, leaf []byte, hashes [][store.HashSize]byte) error {
	size, err := t.Size()
	if err != nil {
		return err
	}
	if seq != size {
		return fmt.Errorf("appending leaf %d to %d leaves: %w", seq, size, store.ErrVersion)
	}
	if len(hashes) != hashesOf(seq) {
		return errHashes
	}
	record := make([]byte, 0, store.HashSize*len(hashes))
	for _, h := range hashes {
		record = append(record, h[:]...)
	}
	if _, err := t.write("appending a leaf", insertLeaf, seq, notNull(leaf), record); err != nil {
		return err
	}
	t.size++
	return nil
}

// Size returns the number of leaves, read at most once per transaction.
func (t *tx) Size() (int64, error) {
	if t.size >= 0 {
		return t.size, t.ready()
	}
	err := t.read("reading the size of the log", selectSize, func(r *sql.Rows) error {
		return r.Scan(&t.size)
	})
	return t.size, err
}

// EmptyLeaves empties the content of leaves; see store.Leaves.
func (t *tx) EmptyLeaves(from, to int64) error {
	_, err := t.write("emptying leaves", emptyLeaves, []byte{}, from, to)
	return err
}

// Leaves returns a page of leaves; see store.Leaves. A leaf that is missing from
// the file ends the page, so that the caller never takes one leaf for another.
func (t *tx) Leaves(seq int64, limit int) ([]store.Leaf, error) {
	if seq < 0 || limit <= 0 {
		return nil, t.ready()
	}
	var page []store.Leaf
	gap := false
	err := t.read("reading leaves", selectLeaves, func(r *sql.Rows) error {
		var n int64
		var leaf store.Leaf
		var record sql.RawBytes
		if err := r.Scan(&n, &leaf.Content, &record); err != nil {
			return err
		}
		leaf.Hashes = split(record)
		gap = gap || n != seq+int64(len(page))
		if !gap {
			page = append(page, leaf)
		}
		return nil
	}, seq, limit)
	return page, err
}

// split returns the hashes of a record, none if it is not made of whole ones.
func split(record []byte) [][store.HashSize]byte {
	if len(record)%store.HashSize != 0 {
		return nil
	}
	hashes := make([][store.HashSize]byte, len(record)/store.HashSize)
	for i := range hashes {
		copy(hashes[i][:], record[i*store.HashSize:])
	}
	return hashes
}

// Hashes returns the hashes with these indexes; see store.Leaves. The hash of a
// subtree stands in the record of the leaf that completes it.
func (t *tx) Hashes(indexes []int64) ([][store.HashSize]byte, error) {
	hashes := make([][store.HashSize]byte, len(indexes))
	last := int64(-1) // the leaf whose record was read; neighbours share it
	var record [][store.HashSize]byte
	for i, index := range indexes {
		if index < 0 {
			return nil, fmt.Errorf("reading hash %d: %w", index, store.ErrNotFound)
		}
		level, n := tlog.SplitStoredHashIndex(index)
		if seq := (n+1)<<level - 1; seq != last {
			var err error
			if record, err = t.record(seq); err != nil {
				return nil, err
			}
			last = seq
		}
		if level >= len(record) {
			return nil, fmt.Errorf("reading hash %d: %w", index, store.ErrNotFound)
		}
		hashes[i] = record[level]
	}
	return hashes, t.ready()
}

// record returns the hashes that leaf seq added, none if there is no such leaf.
func (t *tx) record(seq int64) (hashes [][store.HashSize]byte, err error) {
	err = t.read("reading hashes", selectHashes, func(r *sql.Rows) error {
		var record sql.RawBytes
		if err := r.Scan(&record); err != nil {
			return err
		}
		hashes = split(record)
		return nil
	}, seq)
	return hashes, err
}
