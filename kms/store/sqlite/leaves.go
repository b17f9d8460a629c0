package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"math/bits"

	"cardkms/kms/store"
)

var (
	errBlock  = errors.New("sqlite: a block has a negative number or is too long")
	errHashes = errors.New("sqlite: a leaf comes with its own hash and one for each subtree that it completes")
)

// firstIndex returns the index of the first hash that leaf seq adds: all hashes
// added before it are 2*seq less one for each perfect subtree still open.
func firstIndex(seq int64) int64 { return 2*seq - int64(bits.OnesCount64(uint64(seq))) }

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
	if _, err := t.write("appending a leaf", insertLeaf, seq, notNull(leaf)); err != nil {
		return err
	}
	for i := range hashes {
		if _, err := t.write("appending a hash", insertHash, firstIndex(seq)+int64(i), hashes[i][:]); err != nil {
			return err
		}
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

// Leaves returns a page of leaves; see store.Leaves. A leaf that is missing from
// the file ends the page, so that the caller never takes one leaf for another.
func (t *tx) Leaves(seq int64, limit int) ([][]byte, error) {
	if seq < 0 || limit <= 0 {
		return nil, t.ready()
	}
	var page [][]byte
	gap := false
	err := t.read("reading leaves", selectLeaves, func(r *sql.Rows) error {
		var n int64
		var leaf []byte
		if err := r.Scan(&n, &leaf); err != nil {
			return err
		}
		gap = gap || n != seq+int64(len(page))
		if !gap {
			page = append(page, leaf)
		}
		return nil
	}, seq, limit)
	return page, err
}

// Hashes returns the hashes with these indexes; see store.Leaves. Neighbouring
// indexes are read by one statement.
func (t *tx) Hashes(indexes []int64) ([][store.HashSize]byte, error) {
	hashes := make([][store.HashSize]byte, 0, len(indexes))
	for len(indexes) > 0 {
		run := 1
		for run < len(indexes) && indexes[run] == indexes[0]+int64(run) {
			run++
		}
		want := len(hashes) + run
		if err := t.hashRun(indexes[0], run, &hashes); err != nil {
			return nil, err
		}
		if len(hashes) != want {
			return nil, fmt.Errorf("reading %d hashes from %d: %w", run, indexes[0], store.ErrNotFound)
		}
		indexes = indexes[run:]
	}
	return hashes, t.ready()
}

func (t *tx) hashRun(first int64, run int, hashes *[][store.HashSize]byte) error {
	return t.read("reading hashes", selectHashes, func(r *sql.Rows) error {
		var idx int64
		var raw sql.RawBytes
		if err := r.Scan(&idx, &raw); err != nil {
			return err
		}
		if len(raw) != store.HashSize {
			return fmt.Errorf("hash %d has %d bytes", idx, len(raw))
		}
		*hashes = append(*hashes, [store.HashSize]byte(raw))
		return nil
	}, first, first+int64(run)-1)
}
