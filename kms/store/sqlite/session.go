package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"cardkms/kms/store"
	"cardkms/kms/store/relational"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// session is one connection with its prepared statements. Whoever took it from
// its channel owns it.
type session struct {
	pool  *sql.DB
	begin relational.Query
	conn  *sql.Conn // nil until first used, and after an error that it may not survive
	stmts [queries]*sql.Stmt
}

// SQLite's own statements, beside those that the engines share.
const (
	beginWrite = relational.Queries + iota
	beginRead
	commit
	rollback
	queries
)

func text(q relational.Query) string {
	switch q {
	case beginWrite:
		return `BEGIN IMMEDIATE`
	case beginRead:
		return `BEGIN`
	case commit:
		return `COMMIT`
	case rollback:
		return `ROLLBACK`
	}
	return q.Text()
}

// transact runs f between begin and commit. Statements run without the caller's
// context: a driver that interrupts needs a goroutine for each statement and may
// interrupt the next one; instead each statement first looks at the context.
func (s *session) transact(ctx context.Context, f func(*relational.Tx) error) (err error) {
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	tx := relational.NewTx(ctx, s)
	done := false
	defer func() { // also when f panics
		switch {
		case tx.Err() != nil: // nobody knows what is still open on the connection
			err = errors.Join(err, s.drop())
		case !done:
			err = errors.Join(err, s.rollback())
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Err(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.begin == beginRead {
		return nil // and roll back, for there is nothing whose outcome could be unknown
	}
	done = true
	return s.commit()
}

// start connects if need be and begins, waiting for the lock.
func (s *session) start(ctx context.Context) error {
	return waitForLock(ctx, func() error {
		if s.conn == nil {
			conn, err := s.pool.Conn(ctx)
			if err != nil {
				return err
			}
			s.conn = conn
		}
		_, err := s.exec(s.begin)
		if err != nil && !locked(err) {
			err = errors.Join(err, s.drop()) // the next call starts with a new connection
		}
		return err
	})
}

// waitForLock repeats f while another process holds a lock, until the context
// ends or lockWaitMax is over.
func waitForLock(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, lockWaitMax)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := f()
		if err == nil || !locked(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("waiting for a lock on the database: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// locked reports whether another connection holds the lock that is needed.
func locked(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

// commit makes the transaction durable. After an error the commit record may be
// in the WAL although the fsync failed, and a restart might find it: the outcome
// is unknown. Only a lock is refused beforehand, and a disk that is full did not
// take the whole record.
func (s *session) commit() error {
	_, err := s.exec(commit)
	if err == nil {
		return nil
	}
	refused := locked(err) || errors.Is(err, store.ErrFull)
	err = errors.Join(fmt.Errorf("committing: %w", err), s.drop())
	if refused {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnknown, err)
}

func (s *session) rollback() error {
	if _, err := s.exec(rollback); err != nil {
		return errors.Join(fmt.Errorf("rolling back: %w", err), s.drop())
	}
	return nil
}

// drop closes the connection, which rolls back what is open on it.
func (s *session) drop() error {
	if s.conn == nil {
		return nil
	}
	var errs []error
	for i, stmt := range s.stmts {
		if stmt != nil {
			errs = append(errs, stmt.Close())
			s.stmts[i] = nil
		}
	}
	// A connection whose use ended with ErrBadConn is closed, not kept for reuse.
	if err := s.conn.Raw(func(any) error { return driver.ErrBadConn }); !errors.Is(err, driver.ErrBadConn) {
		errs = append(errs, err)
	}
	s.conn = nil
	return errors.Join(errs...)
}

// stmt returns the prepared statement, preparing it at its first use.
func (s *session) stmt(q relational.Query) (*sql.Stmt, error) {
	if s.stmts[q] == nil {
		stmt, err := s.conn.PrepareContext(context.Background(), text(q))
		if err != nil {
			return nil, err
		}
		s.stmts[q] = stmt
	}
	return s.stmts[q], nil
}

// full adds store.ErrFull to the error of a disk that has no room.
func full(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

// exec runs a statement that returns no rows and reports how many it changed.
func (s *session) exec(q relational.Query, args ...any) (changed int64, err error) {
	stmt, err := s.stmt(q)
	if err != nil {
		return 0, err
	}
	r, err := stmt.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, full(err)
	}
	return r.RowsAffected()
}

// Run runs statements one after another; see relational.Conn.
func (s *session) Run(_ context.Context, statements []relational.Statement, scan func(int, relational.Scanner) error) ([]int64, error) {
	changed := make([]int64, len(statements))
	for i, st := range statements {
		var err error
		if scan == nil {
			changed[i], err = s.exec(st.Query, st.Args...)
		} else {
			err = s.each(st, func(row relational.Scanner) error { return scan(i, row) })
		}
		if err != nil {
			return nil, err
		}
	}
	return changed, nil
}

// each calls scan for every row that a statement returns.
func (s *session) each(st relational.Statement, scan func(relational.Scanner) error) (err error) {
	stmt, err := s.stmt(st.Query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(context.Background(), st.Args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
