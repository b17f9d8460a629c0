package relational

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

var errHashes = errors.New("relational: a leaf comes with its own hash and one for each subtree that it completes")

// hashesOf returns the number of hashes that leaf seq adds.
func hashesOf(seq int64) int { return 1 + bits.TrailingZeros64(^uint64(seq)) }

// AppendLeaves stores the next leaves and their hashes; see store.Leaves.
func (t *Tx) AppendLeaves(seq int64, leaves []store.Leaf) error {
	size, err := t.Size()
	if err != nil {
		return err
	}
	if seq != size {
		return fmt.Errorf("appending leaf %d to %d leaves: %w", seq, size, store.ErrVersion)
	}
	statements := make([]Statement, len(leaves))
	for i, leaf := range leaves {
		n := seq + int64(i)
		if len(leaf.Hashes) != hashesOf(n) {
			return errHashes
		}
		statements[i] = Statement{InsertLeaf, []any{n, notNull(leaf.Content), join(leaf.Hashes), numbers(leaf.Touched)}}
	}
	if _, err := t.run("appending leaves", statements, nil); err != nil {
		return err
	}
	t.size += int64(len(leaves))
	return nil
}

// Size returns the number of leaves, read at most once per transaction.
func (t *Tx) Size() (int64, error) {
	if t.size >= 0 {
		return t.size, t.ready()
	}
	err := t.read("reading the size of the log", SelectSize, func(r Scanner) error { return r.Scan(&t.size) })
	return t.size, err
}

// EmptyLeaves empties the content of leaves; see store.Leaves.
func (t *Tx) EmptyLeaves(from, to int64) error {
	return t.write("emptying leaves", EmptyLeaves, []byte{}, from, to)
}

// Leaves returns a page of leaves; see store.Leaves. A leaf that is missing from
// the database ends the page, so that the caller never takes one leaf for another.
func (t *Tx) Leaves(seq int64, limit int) ([]store.Leaf, error) {
	if seq < 0 || limit <= 0 {
		return nil, t.ready()
	}
	var page []store.Leaf
	gap := false
	err := t.read("reading leaves", SelectLeaves, func(r Scanner) error {
		var n int64
		var leaf store.Leaf
		var hashes, touched []byte
		if err := r.Scan(&n, &leaf.Content, &hashes, &touched); err != nil {
			return err
		}
		leaf.Hashes, leaf.Touched = split(hashes), parse(touched)
		gap = gap || n != seq+int64(len(page))
		if !gap {
			page = append(page, leaf)
		}
		return nil
	}, seq, limit)
	return page, err
}

// join encodes hashes one after another.
func join(hashes [][store.HashSize]byte) []byte {
	record := make([]byte, 0, store.HashSize*len(hashes))
	for _, h := range hashes {
		record = append(record, h[:]...)
	}
	return record
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

// numbers encodes what a leaf touched, two bytes each.
func numbers(touched []uint16) []byte {
	out := make([]byte, 0, 2*len(touched))
	for _, n := range touched {
		out = binary.BigEndian.AppendUint16(out, n)
	}
	return out
}

func parse(encoded []byte) []uint16 {
	var out []uint16
	for ; len(encoded) >= 2; encoded = encoded[2:] {
		out = append(out, binary.BigEndian.Uint16(encoded))
	}
	return out
}

// Hashes returns the hashes with these indexes; see store.Leaves. The hash of a
// subtree stands in the record of the leaf that completes it.
func (t *Tx) Hashes(indexes []int64) ([][store.HashSize]byte, error) {
	records, err := t.records(indexes)
	if err != nil {
		return nil, err
	}
	hashes := make([][store.HashSize]byte, len(indexes))
	for i, index := range indexes {
		level, seq := leafOf(index)
		if index < 0 || level >= len(records[seq]) {
			return nil, fmt.Errorf("reading hash %d: %w", index, store.ErrNotFound)
		}
		hashes[i] = records[seq][level]
	}
	return hashes, nil
}

// leafOf returns which leaf stores a hash, and at which place of its record.
func leafOf(index int64) (level int, seq int64) {
	if index < 0 {
		return 0, -1
	}
	level, n := tlog.SplitStoredHashIndex(index)
	return level, (n+1)<<level - 1
}

// records returns the hashes of the leaves that store those with these indexes.
func (t *Tx) records(indexes []int64) (map[int64][][store.HashSize]byte, error) {
	records := map[int64][][store.HashSize]byte{}
	var statements []Statement
	var of []int64
	for _, index := range indexes {
		_, seq := leafOf(index)
		if _, asked := records[seq]; !asked {
			records[seq] = nil
			of, statements = append(of, seq), append(statements, Statement{SelectHashes, []any{seq}})
		}
	}
	_, err := t.run("reading hashes", statements, func(i int, r Scanner) error {
		var record []byte
		err := r.Scan(&record)
		records[of[i]] = split(record)
		return err
	})
	return records, err
}
