package sqlite

import (
	"errors"

	"cardkms/kms/store"
)

// errReadOnly: a View wrote.
var errReadOnly = errors.New("sqlite: a view does not write")

// readOnly refuses writes before they reach SQLite, which would refuse them too
// and break the transaction.
type readOnly struct{ store.Tx }

// Put fails.
func (readOnly) Put(store.Row) error { return errReadOnly }

// AppendLeaf fails.
func (readOnly) AppendLeaf(int64, []byte, [][store.HashSize]byte) error { return errReadOnly }

// PutBlock fails.
func (readOnly) PutBlock(string, int64, []byte) error { return errReadOnly }

// EmptyLeaves fails.
func (readOnly) EmptyLeaves(int64, int64) error { return errReadOnly }
