package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"cardkms/kms/store"
	"cardkms/kms/store/relational"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// How transactions begin, in one round trip each. A writer's statements see what was
// committed when it got the lock, because each takes a new snapshot.
const (
	beginWrite = `BEGIN ISOLATION LEVEL READ COMMITTED; SELECT FROM writer FOR UPDATE`
	beginRead  = `BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY`
)

// transact runs f between begin and commit.
func (db *DB) transact(ctx context.Context, begin string, writes bool, f func(*relational.Tx) error) (err error) {
	conn, err := db.begin(ctx, begin)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	// A connection that is still in a transaction is closed, not kept for reuse.
	defer conn.Release()
	tx := relational.NewTx(ctx, session{conn.Conn()})
	done := false
	defer func() { // also when f panics
		if !done {
			rollback(ctx, conn)
		}
	}()
	err = f(tx)
	if err == nil {
		err = errors.Join(tx.Err(), ctx.Err())
	}
	if err != nil {
		if gone(ctx, tx.Err()) {
			return fmt.Errorf("%w: %w", store.ErrAway, err) // before a COMMIT nothing was changed
		}
		return err
	}
	if !writes {
		return nil
	}
	done = true
	return commit(ctx, conn)
}

// begin begins a transaction. A connection that died since its last use, or a server that
// restarts, is tried again until the context ends or retryMax is over: nothing has
// happened yet.
func (db *DB) begin(ctx context.Context, statement string) (*pgxpool.Conn, error) {
	end := time.Now().Add(retryMax)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		conn, err := db.pool.Acquire(ctx)
		if err == nil {
			if _, err = conn.Exec(ctx, statement); err == nil {
				return conn, nil
			}
			conn.Release()
		}
		if ctx.Err() != nil || !lost(err) || time.Now().After(end) {
			return nil, full(away(ctx, err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// retryMax is how long a server that is away is tried again.
const retryMax = 2 * time.Second

// lost reports whether an error says that the server is away or going away, and not
// what it thinks of a statement.
func lost(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return true
	}
	// 57P01 to 57P03: shutdown, crash of another process, not started yet; 53300: too
	// many connections; 08: connection exceptions.
	return strings.HasPrefix(e.Code, "57P0") || e.Code == "53300" || strings.HasPrefix(e.Code, "08")
}

// away adds store.ErrAway to the error of a server that is.
func away(ctx context.Context, err error) error {
	if gone(ctx, err) {
		return fmt.Errorf("%w: %w", store.ErrAway, err)
	}
	return err
}

// gone reports whether an error says that the server does not answer, and not that the
// caller went away. A server that cannot prove who it is, or that refuses our certificate,
// is there.
func gone(ctx context.Context, err error) bool {
	var sent *pgconn.PgError
	var network net.Error
	var other *tls.CertificateVerificationError
	var alert tls.AlertError
	silent := errors.As(err, &sent) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	return silent && lost(err) && !errors.As(err, &other) && !errors.As(err, &alert) && !errors.Is(err, errCredentials) && ctx.Err() == nil
}

var errCredentials = errors.New("postgres: no user and password")

func rollback(ctx context.Context, conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	// What cannot be rolled back is rolled back by the server, once its connection is closed.
	_, _ = conn.Exec(ctx, "ROLLBACK")
}

// commit makes the transaction durable. An error that the server sent says that it did
// not; one of the connection leaves the outcome unknown, also where pgconn.SafeToRetry
// says that nothing was sent: it says so of a connection that ended after a COMMIT.
func commit(ctx context.Context, conn *pgxpool.Conn) error {
	tag, err := conn.Exec(ctx, "COMMIT")
	switch {
	case err == nil && tag.String() == "COMMIT":
		return nil
	case err == nil:
		return fmt.Errorf("committing: the server answered %s", tag)
	case !lost(err):
		return fmt.Errorf("committing: %w", full(err))
	}
	return fmt.Errorf("%w: committing: %w", store.ErrUnknown, err)
}

// full adds store.ErrFull to the error of a disk that has no room (53100).
func full(err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "53100" {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

// session is a connection with a transaction open.
type session struct{ conn *pgx.Conn }

// Run sends all statements before it reads the first answer; see relational.Conn.
func (s session) Run(ctx context.Context, statements []relational.Statement, scan func(int, relational.Scanner) error) (changed []int64, err error) {
	batch := &pgx.Batch{}
	for _, st := range statements {
		batch.Queue(st.Query.Text(), st.Args...)
	}
	answers := s.conn.SendBatch(ctx, batch)
	defer func() { err = full(errors.Join(err, answers.Close())) }()
	changed = make([]int64, len(statements))
	for i := range statements {
		if changed[i], err = read(answers, func(row relational.Scanner) error { return scan(i, row) }); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

// read reads the answer to one statement.
func read(answers pgx.BatchResults, scan func(relational.Scanner) error) (changed int64, err error) {
	rows, err := answers.Query()
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return 0, err
		}
	}
	rows.Close()
	return rows.CommandTag().RowsAffected(), rows.Err()
}
