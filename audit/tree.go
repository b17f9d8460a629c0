package audit

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Edge is the right edge of a tree: the roots of its perfect subtrees, from the
// largest to the smallest, at most 63 hashes. It is all that appending needs, so
// that an append reads nothing, and all that a root needs. The zero value is the
// empty tree. An Edge is not safe for concurrent use.
type Edge struct {
	size   int64
	hashes []tlog.Hash // one for each set bit of size, most significant first
}

// LoadEdge reads the edge of the tree of this size from its stored hashes.
func LoadEdge(size int64, r tlog.HashReader) (Edge, error) {
	if size < 0 {
		return Edge{}, errors.New("audit: the size of a tree is not negative")
	}
	hashes, err := r.ReadHashes(edgeIndexes(size))
	if err != nil {
		return Edge{}, fmt.Errorf("reading the right edge of the tree of size %d: %w", size, err)
	}
	if len(hashes) != bits.OnesCount64(uint64(size)) {
		return Edge{}, fmt.Errorf("audit: the right edge of size %d has %d hashes", size, len(hashes))
	}
	return Edge{size, slices.Clone(hashes)}, nil
}

// edgeIndexes returns the stored hash indexes of the perfect subtrees of a tree:
// one for each set bit of its size, from the left.
func edgeIndexes(size int64) []int64 {
	var indexes []int64
	for start, level := int64(0), 62; level >= 0; level-- {
		if size&(1<<level) != 0 {
			indexes = append(indexes, tlog.StoredHashIndex(level, start>>level))
			start += 1 << level
		}
	}
	return indexes
}

// Size returns the number of leaves.
func (e *Edge) Size() int64 { return e.size }

// Clone returns an edge that changes independently.
func (e *Edge) Clone() Edge { return Edge{e.size, slices.Clone(e.hashes)} }

// Append adds a leaf and returns the hashes to store for it, starting at index
// tlog.StoredHashIndex(0, n) for the leaf with number n: the leaf's own, then
// that of each subtree which it completes.
func (e *Edge) Append(leaf tlog.Hash) []tlog.Hash {
	completes := bits.TrailingZeros64(^uint64(e.size))
	stored := make([]tlog.Hash, 1, 1+completes)
	stored[0] = leaf
	h := leaf
	for range completes {
		last := len(e.hashes) - 1
		h = tlog.NodeHash(e.hashes[last], h)
		e.hashes = e.hashes[:last]
		stored = append(stored, h)
	}
	e.hashes = append(e.hashes, h)
	e.size++
	return stored
}

// Root returns the root hash, [RFC 6962], Section 2.1.
func (e *Edge) Root() tlog.Hash {
	if e.size == 0 {
		return emptyRoot()
	}
	last := len(e.hashes) - 1
	h := e.hashes[last]
	for i := last - 1; i >= 0; i-- {
		h = tlog.NodeHash(e.hashes[i], h)
	}
	return h
}

// Tail returns the root of the leaves that follow the full subtrees of 1<<level
// leaves.
func (e *Edge) Tail(level int) tlog.Hash {
	full := bits.OnesCount64(uint64(e.size) >> level)
	tail := Edge{e.size & (1<<level - 1), e.hashes[full:]}
	return tail.Root()
}

// emptyRoot is the root of the tree without leaves: SHA-256 of nothing.
func emptyRoot() tlog.Hash {
	h, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic("audit: the empty tree has a root: " + err.Error())
	}
	return h
}

// ProveEntry returns the proof that the tree of this size holds the leaf with
// this sequence number.
func ProveEntry(size, seq int64, r tlog.HashReader) (tlog.RecordProof, error) {
	if seq < 0 || seq >= size {
		return nil, fmt.Errorf("audit: no leaf %d in a tree of size %d", seq, size)
	}
	return tlog.ProveRecord(size, seq, r)
}

// CheckEntry checks the proof that the tree {size, root} holds this encoding
// as its leaf seq.
func CheckEntry(p tlog.RecordProof, c Checkpoint, seq int64, encoding []byte) error {
	return tlog.CheckRecord(p, c.Size, c.Root, seq, LeafHash(encoding))
}

// ProveGrowth returns the proof that the tree of size newer starts with the
// leaves of the tree of size older. It is empty where nothing needs a proof:
// every tree starts with the empty one, and with itself.
func ProveGrowth(newer, older int64, r tlog.HashReader) (tlog.TreeProof, error) {
	if older < 0 || older > newer {
		return nil, fmt.Errorf("audit: a tree of size %d does not grow to %d", older, newer)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	return tlog.ProveTree(newer, older, r)
}

// CheckGrowth checks the proof that the log behind the newer checkpoint starts
// with the log behind the older one.
func CheckGrowth(p tlog.TreeProof, newer, older Checkpoint) error {
	switch {
	case older.Origin != newer.Origin:
		return errors.New("audit: checkpoints of two logs")
	case older.Size > newer.Size:
		return errors.New("audit: the newer checkpoint is smaller")
	case older.Size == 0 || older.Size == newer.Size:
		if len(p) != 0 || older.Size == newer.Size && older.Root != newer.Root || older.Size == 0 && older.Root != emptyRoot() {
			return errors.New("audit: checkpoints of one size with two roots")
		}
		return nil
	}
	return tlog.CheckTree(p, newer.Size, newer.Root, older.Size, older.Root)
}
