// Package relational is what the relational databases share: the SQL text, and the
// transaction of package store over any connection that runs it.
//
// It follows the contract of package store. It leaves out how an engine connects,
// begins, commits and names its errors, which its own package knows.
//
// A Tx belongs to one goroutine and to one transaction of its Conn; whoever began
// that asks Err before the commit.
package relational

import (
	"context"
	"fmt"

	"cardkms/kms/store"
)

// Statement is one statement with its arguments.
type Statement struct {
	Query Query
	Args  []any
}

// Scanner is a row of an answer.
type Scanner interface{ Scan(dest ...any) error }

// Conn is a connection with a transaction open.
type Conn interface {
	// Run runs statements in their order, in one round trip if the engine can, and
	// returns how many rows each changed. scan, if not nil, is called for every row
	// that statement i returns. Nothing may be run after an error.
	Run(ctx context.Context, statements []Statement, scan func(i int, row Scanner) error) (changed []int64, err error)
}

// Tx is one transaction.
type Tx struct {
	ctx  context.Context // of the call that the transaction lives in, and no longer
	conn Conn
	// size is the number of leaves, -1 until it was first needed. Nobody else
	// changes it while a write transaction is open.
	size int64
	// broken is the first error of a statement. The engine may have rolled back the
	// whole transaction by itself then, and a later statement would be its own.
	broken error
}

var _ store.Tx = (*Tx)(nil)

// NewTx returns the transaction that is open on a connection.
func NewTx(ctx context.Context, conn Conn) *Tx { return &Tx{ctx: ctx, conn: conn, size: -1} }

// Err returns the first error of a statement, after which there is nothing to commit.
func (t *Tx) Err() error { return t.broken }

// ready reports why no further statement may run.
func (t *Tx) ready() error {
	if t.broken != nil {
		return t.broken
	}
	return t.ctx.Err()
}

// run runs statements and keeps the first error.
func (t *Tx) run(doing string, statements []Statement, scan func(int, Scanner) error) (changed []int64, err error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	changed, err = t.conn.Run(t.ctx, statements, scan)
	if err == nil {
		return changed, nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if t.broken == nil {
		t.broken = err
	}
	return nil, err
}

// write runs one statement that changes something.
func (t *Tx) write(doing string, q Query, args ...any) error {
	_, err := t.run(doing, []Statement{{q, args}}, nil)
	return err
}

// read runs one statement that only reads.
func (t *Tx) read(doing string, q Query, scan func(Scanner) error, args ...any) error {
	_, err := t.run(doing, []Statement{{q, args}}, func(_ int, row Scanner) error { return scan(row) })
	return err
}
