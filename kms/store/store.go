// Package store is the vocabulary in which the service speaks of its database:
// rows, the leaves of the audit log, blocks of images, and the transaction that
// changes all of them at once.
//
// The service declares what it needs here; kms/store/sqlite and kms/store/postgres
// provide it, and kms/store/storetest is the conformance suite that every
// implementation must pass. The database is untrusted: nothing in it is secret, and what decides
// something is checked against the signed log by package ledger, not by the store.
//
// Every row has the same shape whatever it describes. A row is named by kind,
// issuer and id, carries a version that rises by one with every change, a body
// that only the service understands, and a MAC that a token made over all of
// these. One shape means one way to read, write, list, protect and prove a row.
package store

import (
	"context"
	"errors"
)

// Errors that implementations return, wrapped or bare; compare with errors.Is.
var (
	// ErrNotFound: no such row, leaf or block.
	ErrNotFound = errors.New("store: not found")
	// ErrVersion: the row changed since it was read, or exists already.
	ErrVersion = errors.New("store: the row's version is not the expected one")
	// ErrFull: there is no room; nothing was changed.
	ErrFull = errors.New("store: no room is left")
	// ErrAway: the server of the database does not answer. No row was changed; of a
	// schema's migrations some may be done.
	ErrAway = errors.New("store: the database does not answer")
)

// Kind is the kind of a row, e.g. "card". 1 to 32 lower-case letters and hyphens.
type Kind string

// Ref names a row.
type Ref struct {
	Kind   Kind
	Issuer string // empty for rows that belong to no issuer
	ID     string
}

// Row is one object. Version is 1 at creation.
type Row struct {
	Ref
	Version int64
	Body    []byte
	MAC     []byte // empty for rows that are protected in another way
}

// Rows reads and writes rows inside a transaction.
type Rows interface {
	// Get returns the row, or ErrNotFound.
	Get(Ref) (Row, error)
	// Put writes the row. Version 1 creates; a version n > 1 replaces version n-1.
	// Anything else is ErrVersion and changes nothing.
	Put(Row) error
	// List returns at most limit rows of a kind and issuer with ID > after, in
	// ascending byte order of ID.
	List(kind Kind, issuer, after string, limit int) ([]Row, error)
}

// Bulk reads and writes many rows at once, because a database over a network
// answers many questions in the time of one.
type Bulk interface {
	// GetAll returns the rows in the order of their names. One that does not exist
	// has version 0.
	GetAll([]Ref) ([]Row, error)
	// PutAll is Put for each row, in this order. After an error the transaction
	// cannot go on.
	PutAll([]Row) error
	// Import writes rows of another store as they are, whatever their version. One that
	// exists is ErrVersion, and the transaction cannot go on.
	Import([]Row) error
}

// Everything reads rows whatever their kind.
type Everything interface {
	// All returns at most limit rows after a name, ascending by kind, issuer and ID.
	All(after Ref, limit int) ([]Row, error)
}

// HashSize is the length in bytes of a hash of the tree (SHA-256).
const HashSize = 32

// Leaves keeps the audit log: leaf n is the encoded entry with sequence number
// n, from 0 without gaps; hashes are numbered as golang.org/x/mod/sumdb/tlog
// stores them. A leaf and the hashes that it adds are one record, because most of
// the cost of an entry is the number of records that it writes.
type Leaves interface {
	// AppendLeaves stores leaves with the next sequence numbers, the first of which
	// is seq, and the hashes that each adds to the tree at the next hash indexes. A
	// seq that is not the next is ErrVersion. Nothing is stored with an error.
	AppendLeaves(seq int64, leaves []Leaf) error
	// Leaves returns at most limit leaves from seq on.
	Leaves(seq int64, limit int) ([]Leaf, error)
	// Hashes returns the stored hashes with these indexes, in this order, or
	// ErrNotFound.
	Hashes(indexes []int64) ([][HashSize]byte, error)
	// Size returns the number of leaves.
	Size() (int64, error)
	// EmptyLeaves empties the content of the leaves [from, to); their hashes stay.
	EmptyLeaves(from, to int64) error
}

// Leaf is one leaf as it is stored.
type Leaf struct {
	Content []byte
	Hashes  [][HashSize]byte // its own, then that of each subtree that it completes
	// Touched are numbers that the log gives what the leaf's change touched. The store
	// only keeps them: they tell another node what to read again.
	Touched []uint16
}

// Blocks keeps the content of images, in blocks of at most BlockBytesMax bytes.
type Blocks interface {
	// PutBlock writes block n of an image, replacing it if it exists.
	PutBlock(image string, n int64, data []byte) error
	// Block returns block n of an image, or ErrNotFound.
	Block(image string, n int64) ([]byte, error)
	// AllBlocks returns at most limit blocks after that one, ascending by image and
	// number. Before the first one is image "" with number -1.
	AllBlocks(image string, n int64, limit int) ([]Block, error)
}

// Block is one block of an image.
type Block struct {
	Image string
	N     int64
	Data  []byte
}

// BlockBytesMax is the length of every block of an image but its last.
const BlockBytesMax = 64 << 10

// Tx is one transaction: all of it happens, or nothing.
type Tx interface {
	Rows
	Bulk
	Everything
	Leaves
	Blocks
}

// Store runs transactions.
type Store interface {
	// Update runs f in a transaction that excludes other updates. When Update
	// returns nil, everything that f did is durable: it survives the loss of
	// the process and of power. When it returns an error nothing happened,
	// unless the error came from the commit itself, which then says so with
	// ErrUnknown.
	Update(ctx context.Context, f func(Tx) error) error
	// View runs f in a transaction that sees one consistent state; its writes fail.
	View(ctx context.Context, f func(Tx) error) error
	// Close releases the database. No call may be under way.
	Close() error
}

// ErrUnknown: the commit was sent and its answer lost, so the caller must read
// back to learn what holds.
var ErrUnknown = errors.New("store: the outcome of the commit is not known")
