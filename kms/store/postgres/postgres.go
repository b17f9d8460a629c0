// Package postgres keeps the rows, the audit log and the images of a store.Store in
// a PostgreSQL database that several nodes share, by way of pgx.
//
// It follows the contract of package store and passes storetest. Queries and their
// transaction are those of package relational; only the DDL in migrations/,
// connections, and how a transaction begins and ends are PostgreSQL's own. Tested with
// PostgreSQL 15.
//
// It leaves out what rows and leaves mean, and every check of their content: the
// database is untrusted, and its reader compares it with the signed log. It replicates
// nothing and elects nobody; that is for PostgreSQL and whoever runs it.
//
// It promises that an Update that returned nil survives the loss of the server
// (synchronous_commit and fsync are on, or Open refuses), that Updates of all nodes
// exclude each other by the lock of one row, that Views see one state (REPEATABLE READ)
// and wait for nobody, and that nothing waits longer than its context. A server that was
// lost before a transaction began is tried again; one that was lost while it committed is
// store.ErrUnknown.
//
// The caller must bound every call by its context and call Close.
package postgres

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	"cardkms/kms/store"
	"cardkms/kms/store/relational"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Credentials returns user and password of the next connection. An empty user is that
// of the URL.
type Credentials func(ctx context.Context) (user, password string, err error)

// Config says how to connect.
type Config struct {
	// URL is a connection string of PostgreSQL, without a password where Credentials
	// has one.
	URL         string
	Credentials Credentials // nil: those of the URL
	// Connections is how many may be open at a time; 0 means 16.
	Connections int32
}

const (
	connections    = 16
	connectTimeout = 5 * time.Second
	// rollbackTimeout bounds the end of a transaction whose own context is over.
	rollbackTimeout = 2 * time.Second
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is a store.Store in a PostgreSQL database.
type DB struct {
	pool *pgxpool.Pool
}

var _ store.Store = (*DB)(nil)

// Open connects and migrates the database to the newest schema. Of several nodes that
// start together one migrates, and the others wait for it. A server that does not answer
// is store.ErrAway.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	pool, err := connect(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	db := &DB{pool: pool}
	err = db.durable(ctx)
	if err == nil {
		err = db.migrate(ctx)
	}
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return db, nil
}

func connect(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errURL
	}
	c.ConnConfig.ConnectTimeout = connectTimeout
	c.ConnConfig.RuntimeParams["application_name"] = "cardkms"
	if c.MaxConns = connections; cfg.Connections > 0 {
		c.MaxConns = cfg.Connections
	}
	if cfg.Credentials != nil {
		c.BeforeConnect = func(ctx context.Context, conn *pgx.ConnConfig) error {
			user, password, err := cfg.Credentials(ctx)
			if err != nil {
				return fmt.Errorf("%w: %w", errCredentials, err)
			}
			conn.User, conn.Password = cmp.Or(user, conn.User), password
			return nil
		}
	}
	return pgxpool.NewWithConfig(ctx, c)
}

var (
	errURL   = errors.New("it is no connection string of PostgreSQL")
	errPlain = errors.New("the server is on another machine, so sslmode is verify-full")
	errKnown = errors.New("it holds a password, which belongs into database.password")
)

// CheckURL says what is wrong with a connection string: a server on another machine must
// prove who it is, and a file that others read holds no password.
func CheckURL(url string) error {
	c, err := pgx.ParseConfig(url)
	var file *fs.PathError
	switch {
	case errors.As(err, &file): // of a certificate that the string names
		return file
	case err != nil:
		return errURL // the parser's own error may show the URL, and with it a password
	case c.Password != "":
		return errKnown
	case !local(c.Host) && (c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify || len(c.Fallbacks) > 0):
		return errPlain
	}
	return nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || ip != nil && ip.IsLoopback()
}

// durable refuses a server that answers before it has written.
func (db *DB) durable(ctx context.Context) error {
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := db.pool.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return away(ctx, err)
		}
		if value == "off" {
			return fmt.Errorf("the server has %s = off: it would lose what it acknowledged", name)
		}
	}
	return nil
}

func (db *DB) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	pool := stdlib.OpenDBFromPool(db.pool)
	defer func() { _ = pool.Close() }()
	p, err := goose.NewProvider(goose.DialectPostgres, pool, dir,
		goose.WithTableName("schema_migrations"), goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema: %w", away(ctx, err))
	}
	return nil
}

// Update runs f in a transaction that holds the writers' lock; see store.Store.
func (db *DB) Update(ctx context.Context, f func(store.Tx) error) error {
	return db.transact(ctx, beginWrite, true, func(tx *relational.Tx) error { return f(tx) })
}

// View runs f in a read transaction; see store.Store.
func (db *DB) View(ctx context.Context, f func(store.Tx) error) error {
	return db.transact(ctx, beginRead, false, func(tx *relational.Tx) error { return f(relational.ReadOnly(tx)) })
}

// Renew has every connection that is not in use opened anew, with new credentials, and
// the others after their use.
func (db *DB) Renew() { db.pool.Reset() }

// Close closes the connections. No call may be under way.
func (db *DB) Close() error {
	db.pool.Close()
	return nil
}
