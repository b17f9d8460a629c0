package sqlite

import (
	"context"
	"database/sql"
	"errors"
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
	// tries is the number of Try calls under way, and open how many of them have
	// a savepoint. A Try gets one at its first write, for most write nothing
	// before they know that they succeed.
	tries, open int
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
	for ; t.open < t.tries; t.open++ {
		if _, err := t.s.exec(savepoint); err != nil {
			return 0, t.check("setting a savepoint", err)
		}
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

// Try runs f and undoes it if it fails; see store.Tx.
func (t *tx) Try(f func() error) error {
	size := t.size
	t.tries++
	err := f()
	t.tries--
	if t.broken != nil {
		return t.broken // whatever f made of it
	}
	if t.open <= t.tries {
		return err
	}
	t.open--
	if err != nil {
		t.size = size
		if _, e := t.s.exec(rollbackTo); e != nil {
			return errors.Join(err, t.check("undoing a part of a transaction", e))
		}
	}
	if _, e := t.s.exec(release); e != nil {
		return errors.Join(err, t.check("releasing a savepoint", e))
	}
	return err
}
