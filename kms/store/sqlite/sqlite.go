// Package sqlite keeps the rows, the audit log and the images of a store.Store
// in one SQLite file, by way of modernc.org/sqlite (no cgo).
//
// It follows the contract of package store and passes storetest. Queries and
// their transaction are those of package relational; only the DDL in migrations/,
// connections, and how a transaction begins and ends are SQLite's own.
//
// It leaves out what rows and leaves mean, and every check of their content:
// the file is untrusted, and its reader compares it with the signed log.
//
// It promises that an Update that returned nil survives the loss of power (WAL
// with synchronous=FULL: one fsync per Update), that Updates of all processes
// exclude each other, and that Views never wait for Updates nor Updates for
// Views. Nothing waits longer than its context or lockWaitMax allows; a
// statement under way is not interrupted, for each touches a bounded number of
// rows. A full disk, a lock or an I/O error comes back as an error, and the next
// call starts afresh.
//
// The caller must keep the file on a local disk (WAL needs shared memory), keep
// the functions it passes to Update and View free of waits, and call Close.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"cardkms/kms/store"
	"cardkms/kms/store/relational"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

const (
	// lockWaitMax bounds the wait for a lock that another process holds when
	// the context has no earlier deadline.
	lockWaitMax = 5 * time.Second
	// readers is the number of Views that run at the same time.
	readers = 4
)

// Both kinds of connection return from a lock at once, because SQLite's own wait
// does not listen to a context; waitForLock waits instead. The WAL is moved into
// the file every 4000 pages (16 MB), so that a busy log rewrites its right edge
// less often than with the default of 1000. The caches (in KiB) hold the upper
// levels of the trees of some millions of rows, so that a look-up reads one page.
const (
	pragmas       = "_pragma=busy_timeout(0)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=wal_autocheckpoint(4000)&_pragma=cache_size(-65536)"
	readerPragmas = "_pragma=busy_timeout(0)&_pragma=query_only(1)&_pragma=cache_size(-16384)"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is a store.Store in a file.
type DB struct {
	pool    *sql.DB
	readers *sql.DB
	writer  chan *session // holds the one writer while no Update is under way
	idle    chan *session // holds the readers that no View uses
}

var _ store.Store = (*DB)(nil)

// Open opens the database in the file at path, creates the file with mode 0600
// if it does not exist, and migrates it to the newest schema.
func Open(ctx context.Context, path string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("creating the database: %w", err)
	}
	db := &DB{writer: make(chan *session, 1), idle: make(chan *session, readers)}
	if err := db.connect(ctx, path); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database: %w", err), db.Close())
	}
	return db, nil
}

// createFile makes the file before SQLite does, for SQLite gives the WAL and the
// shared memory the mode of the file. If the process dies right here, an empty
// file remains, which is an empty database.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func dsn(path, query string) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: query}
	return u.String()
}

func (db *DB) connect(ctx context.Context, path string) (err error) {
	if db.pool, err = sql.Open("sqlite", dsn(path, pragmas)); err != nil {
		return err
	}
	db.pool.SetMaxOpenConns(1)
	if err := waitForLock(ctx, func() error { return migrate(ctx, db.pool) }); err != nil {
		return err
	}
	if db.readers, err = sql.Open("sqlite", dsn(path, readerPragmas)); err != nil {
		return err
	}
	db.writer <- &session{pool: db.pool, begin: beginWrite}
	for range readers {
		db.idle <- &session{pool: db.readers, begin: beginRead}
	}
	return nil
}

func migrate(ctx context.Context, pool *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, dir, goose.WithTableName("schema_migrations"))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema: %w", err)
	}
	return nil
}

// Update runs f in the one write transaction; see store.Store.
func (db *DB) Update(ctx context.Context, f func(store.Tx) error) error {
	s, err := acquire(ctx, db.writer)
	if err != nil {
		return err
	}
	defer func() { db.writer <- s }()
	return s.transact(ctx, func(tx *relational.Tx) error { return f(tx) })
}

// View runs f in a read transaction; see store.Store.
func (db *DB) View(ctx context.Context, f func(store.Tx) error) error {
	s, err := acquire(ctx, db.idle)
	if err != nil {
		return err
	}
	defer func() { db.idle <- s }()
	return s.transact(ctx, func(tx *relational.Tx) error { return f(relational.ReadOnly(tx)) })
}

func acquire(ctx context.Context, from chan *session) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s := <-from:
		return s, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the database: %w", ctx.Err())
	}
}

// Close moves the WAL into the file and closes it. No call may be under way.
func (db *DB) Close() error {
	var errs []error
	for _, idle := range []chan *session{db.idle, db.writer} {
		for len(idle) > 0 {
			errs = append(errs, (<-idle).drop())
		}
	}
	for _, pool := range []*sql.DB{db.readers, db.pool} { // the writer last, for it moves the WAL
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}
