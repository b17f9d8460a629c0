package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// tx is one transaction. It belongs to the goroutine that runs the function
// passed to Update or View.
type tx struct {
	ctx context.Context // of the call that the transaction lives in, and no longer
	s   *session
	// size is the number of leaves, -1 until it was first needed. Nobody else
	// changes it while a write transaction is open.
	size int64
	// broken is the first error of a statement. SQLite may have rolled back the
	// whole transaction by itself then, and a later statement would be its own.
	broken error
}

// ready reports why no further statement may run.
func (t *tx) ready() error {
	if t.broken != nil {
		return t.broken
	}
	return t.ctx.Err()
}

// check keeps the first error of a statement.
func (t *tx) check(doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if t.broken == nil {
		t.broken = err
	}
	return err
}

// write runs a statement that changes something.
func (t *tx) write(doing string, q query, args ...any) (changed int64, err error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	changed, err = t.s.exec(q, args...)
	return changed, t.check(doing, err)
}

// read runs a statement that only reads.
func (t *tx) read(doing string, q query, scan func(*sql.Rows) error, args ...any) error {
	if err := t.ready(); err != nil {
		return err
	}
	return t.check(doing, t.s.each(q, scan, args...))
}
