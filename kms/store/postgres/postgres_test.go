package postgres_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"cardkms/kms/store"
	"cardkms/kms/store/postgres"
	"cardkms/kms/store/postgres/throwaway"
	"cardkms/kms/store/storetest"
)

var cluster *throwaway.Cluster

func TestMain(m *testing.M) {
	os.Exit(func() int {
		c, err := throwaway.Start(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cluster = c
		defer func() { _ = c.Close() }()
		return m.Run()
	}())
}

// database makes the database that belongs to a name, unless it is there.
func database(t testing.TB, name string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	db := "t" + hex.EncodeToString(sum[:8])
	_, err := cluster.SQL(context.Background(), "postgres", "CREATE DATABASE "+db)
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
	return db
}

func open(t testing.TB, name string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(context.Background(), postgres.Config{URL: cluster.URL(database(t, name))})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) store.Store { return open(t, dir) })
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	name := database(t, t.Name())
	for _, setting := range []string{"synchronous_commit"} {
		if _, err := cluster.SQL(ctx, "postgres", "ALTER DATABASE "+name+" SET "+setting+" = off"); err != nil {
			t.Fatal(err)
		}
		_, err := postgres.Open(ctx, postgres.Config{URL: cluster.URL(name)})
		if err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("opened a server with %s = off: %v", setting, err)
		}
	}
	const password = "correct-horse"
	for _, bad := range []string{"postgres://u:" + password + "@[::1", "nonsense " + password, ""} {
		_, err := postgres.Open(ctx, postgres.Config{URL: bad})
		if bad != "" && err == nil || err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("a wrong connection string: %v", err)
		}
	}
}

// TestAway: a server that does not answer is told from one that is not ours, and from
// credentials that nobody gives.
func TestAway(t *testing.T) {
	serve := func(talk func(net.Conn)) string {
		l, err := net.Listen("tcp", "localhost:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				talk(c)
				_ = c.Close()
			}
		}()
		return l.Addr().String()
	}
	stranger := httptest.NewTLSServer(nil)
	defer stranger.Close()
	closed := serve(func(net.Conn) {})
	for what, tt := range map[string]struct {
		cfg  postgres.Config
		away bool
	}{
		"it closes every connection": {postgres.Config{URL: "postgres://u@" + closed + "/db?sslmode=disable"}, true},
		"no socket":                  {postgres.Config{URL: "postgres:///db?host=" + t.TempDir()}, true},
		"a name of nobody's": {postgres.Config{URL: "postgres://u@" + serve(func(c net.Conn) {
			if _, err := io.ReadFull(c, make([]byte, 8)); err == nil { // SSLRequest
				_, _ = c.Write([]byte("S"))
				_ = tls.Server(c, stranger.TLS).Handshake()
			}
		}) + "/db?sslmode=verify-full"}, false},
		"no credentials": {postgres.Config{URL: cluster.URL("postgres"), Credentials: func(context.Context) (string, string, error) {
			return "", "", &net.OpError{Op: "dial", Err: errors.New("to whoever gives them")}
		}}, false},
		"no such database": {postgres.Config{URL: cluster.URL("nowhere")}, false},
	} {
		db, err := postgres.Open(context.Background(), tt.cfg)
		if err == nil {
			_ = db.Close()
		}
		if err == nil || errors.Is(err, store.ErrAway) != tt.away {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestLostInTransaction: a connection that ends before COMMIT is a database that is away,
// for reads and for writes, and the next transaction has another one.
func TestLostInTransaction(t *testing.T) {
	ctx := context.Background()
	name := database(t, t.Name())
	db, err := postgres.Open(ctx, postgres.Config{URL: cluster.URL(name)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ref := store.Ref{Kind: "card", ID: "lost"}
	for what, transact := range map[string]func(context.Context, func(store.Tx) error) error{"read": db.View, "write": db.Update} {
		err := transact(ctx, func(tx store.Tx) error {
			if _, err := tx.Get(ref); !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if _, err := cluster.SQL(ctx, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'"); err != nil {
				t.Error(err)
			}
			_, err := tx.Get(ref)
			return err
		})
		if !errors.Is(err, store.ErrAway) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := db.View(ctx, func(tx store.Tx) error { _, err := tx.Get(ref); return err }); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"postgres:///cardkms?host=/run/postgresql":                                           true,
		"postgres://cardkms@localhost/cardkms?sslmode=disable":                               true,
		"postgres://cardkms@127.0.0.1/cardkms":                                               true,
		"host=/run/postgresql dbname=cardkms":                                                true,
		"postgres://cardkms@db.example.com/cardkms?sslmode=verify-full":                      true,
		"postgres://cardkms@db.example.com/cardkms?sslmode=verify-ca":                        false,
		"postgres://cardkms@db.example.com/cardkms?sslmode=require":                          false,
		"postgres://cardkms@db.example.com/cardkms?sslmode=prefer":                           false,
		"postgres://cardkms@db.example.com/cardkms":                                          false,
		"postgres://cardkms@db.example.com/cardkms?sslmode=disable":                          false,
		"postgres://cardkms:secret@localhost/cardkms":                                        false,
		"postgres://cardkms@db.example.com/cardkms?sslmode=verify-full&sslrootcert=/nowhere": false,
		"postgres://[::1": false,
	} {
		if err := postgres.CheckURL(url); (err == nil) != ok || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestCredentials: every connection asks for user and password, and Renew has those that
// are open replaced.
func TestCredentials(t *testing.T) {
	ctx := context.Background()
	asked := 0
	deny := false
	db, err := postgres.Open(ctx, postgres.Config{URL: cluster.URL(database(t, t.Name())), Credentials: func(context.Context) (string, string, error) {
		if asked++; deny {
			return "", "", errors.New("no credentials")
		}
		return "cardkms", "", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	look := func() error {
		ctx, cancel := context.WithTimeout(ctx, 3e9)
		defer cancel()
		return db.View(ctx, func(tx store.Tx) error { _, err := tx.Size(); return err })
	}
	before := asked
	if err := look(); err != nil || asked != before {
		t.Errorf("an open connection was not used again: %v", err)
	}
	db.Renew()
	if err := look(); err != nil || asked == before {
		t.Errorf("no new connection was made: %v", err)
	}
	deny = true
	db.Renew()
	if err := look(); err == nil {
		t.Error("a connection was made without credentials")
	}
}
