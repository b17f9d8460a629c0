package relational

import (
	"errors"

	"cardkms/kms/store"
)

// errReadOnly: a View wrote.
var errReadOnly = errors.New("relational: a view does not write")

// ReadOnly refuses writes before they reach the engine, which would refuse them too
// and break the transaction.
func ReadOnly(t *Tx) store.Tx { return readOnly{t} }

type readOnly struct{ store.Tx }

// Put fails.
func (readOnly) Put(store.Row) error { return errReadOnly }

// PutAll fails.
func (readOnly) PutAll([]store.Row) error { return errReadOnly }

// Import fails.
func (readOnly) Import([]store.Row) error { return errReadOnly }

// AppendLeaves fails.
func (readOnly) AppendLeaves(int64, []store.Leaf) error { return errReadOnly }

// PutBlock fails.
func (readOnly) PutBlock(string, int64, []byte) error { return errReadOnly }

// EmptyLeaves fails.
func (readOnly) EmptyLeaves(int64, int64) error { return errReadOnly }
