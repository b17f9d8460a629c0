package statemap

import "crypto/sha256"

const (
	branches = 16
	levels   = 4 // branches^levels == Buckets
)

// node is an inner node. A nil node and a zero digest are empty.
type node struct {
	digest Digest
	below  [branches]*node   // above the lowest level
	leaves *[branches]Digest // at the lowest level: digests of buckets
}

// Map is the digests of all buckets and of the tree over them. The zero value is
// the map without rows. A Map never changes.
type Map struct{ root *node }

// Root returns the digest of the whole.
func (m Map) Root() Digest { return m.root.sum() }

func (n *node) sum() Digest {
	if n == nil {
		return Digest{}
	}
	return n.digest
}

// branch returns which child of a node at this level, 0 for the root, leads to a
// bucket.
func branch(bucket, level int) int { return bucket >> (4 * (levels - 1 - level)) & (branches - 1) }

// Bucket returns the digest of a bucket.
func (m Map) Bucket(bucket int) Digest {
	n := m.root
	for level := 0; n != nil; level++ {
		i := branch(bucket, level)
		if n.leaves != nil {
			return n.leaves[i]
		}
		n = n.below[i]
	}
	return Digest{}
}

// With returns a map in which a bucket has this digest.
func (m Map) With(bucket int, d Digest) Map { return Map{m.root.with(bucket, 0, d)} }

func (n *node) with(bucket, level int, d Digest) *node {
	next := &node{}
	if n != nil {
		*next = *n
	}
	i := branch(bucket, level)
	if level == levels-1 {
		leaves := [branches]Digest{}
		if next.leaves != nil {
			leaves = *next.leaves
		}
		leaves[i] = d
		next.leaves = &leaves
	} else {
		next.below[i] = next.below[i].with(bucket, level+1, d)
	}
	next.digest = next.compute()
	return next
}

func (n *node) compute() Digest {
	var buf [1 + branches*Size]byte
	buf[0] = 0x01
	empty := true
	for i := range branches {
		d := n.below[i].sum()
		if n.leaves != nil {
			d = n.leaves[i]
		}
		empty = empty && d == Digest{}
		copy(buf[1+i*Size:], d[:])
	}
	if empty {
		return Digest{}
	}
	return sha256.Sum256(buf[:])
}
