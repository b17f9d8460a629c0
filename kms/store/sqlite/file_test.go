package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/kms/store"
)

func closeDB(t *testing.T, db *DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a dir? with #odd% names")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cardkms.db"), nil, 0o644); err != nil { // as a careless restore leaves it
		t.Fatal(err)
	}
	db := open(t, dir)
	defer closeDB(t, db)
	update(t, db, func(tx store.Tx) error { return tx.PutBlock("image", 0, []byte("x")) })
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func update(t testing.TB, db *DB, f func(store.Tx) error) {
	t.Helper()
	if err := db.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func TestPragmasHold(t *testing.T) {
	db := open(t, t.TempDir())
	defer closeDB(t, db)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "query_only": "0"} {
		var got string
		if err := db.pool.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s, %v", pragma, got, want, err)
		}
	}
	var got string
	if err := db.readers.QueryRow("PRAGMA query_only").Scan(&got); err != nil || got != "1" {
		t.Errorf("query_only of a reader is %s, %v", got, err)
	}
}

// TestFullDisk limits the pages of the file, which SQLite reports as it reports a
// full disk, and then makes room again.
func TestFullDisk(t *testing.T) {
	db := open(t, t.TempDir())
	defer closeDB(t, db)
	limit := func(pages int) {
		t.Helper()
		s := <-db.writer // the limit belongs to the writer's connection
		defer func() { db.writer <- s }()
		if _, err := s.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(image string) error {
		return db.Update(context.Background(), func(tx store.Tx) error {
			for n := range int64(10) {
				// Ignoring an error must not commit what came after it.
				_ = tx.PutBlock(image, n, make([]byte, store.BlockBytesMax))
			}
			return nil
		})
	}
	update(t, db, func(tx store.Tx) error { return tx.PutBlock("before", 0, nil) })
	limit(100)
	err := write("full")
	if err == nil || !errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrUnknown) {
		t.Errorf("writing to a full disk: %v", err)
	}
	// The failed update dropped the connection, and the limit with it.
	if err := write("after"); err != nil {
		t.Errorf("writing after there is room again: %v", err)
	}
	err = db.View(context.Background(), func(tx store.Tx) error {
		if _, err := tx.Block("full", 0); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a block of the failed update: %v", err)
		}
		_, err := tx.Block("after", 9)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(context.Background(), filepath.Join(dir, "missing", "db")); err == nil {
		t.Error("opened in a directory that is not there")
	}
	if err := os.WriteFile(filepath.Join(dir, "db"), []byte(strings.Repeat("not a database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "db")); err == nil {
		t.Error("opened a file that is no database")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, filepath.Join(dir, "other")); !errors.Is(err, context.Canceled) {
		t.Errorf("opened with a context that has ended: %v", err)
	}
}

// TestGapInLeaves: a leaf that somebody deleted ends the page before it.
func TestGapInLeaves(t *testing.T) {
	db := open(t, t.TempDir())
	defer closeDB(t, db)
	update(t, db, func(tx store.Tx) error {
		return tx.AppendLeaves(0, []store.Leaf{
			{Hashes: make([][store.HashSize]byte, 1)}, {Hashes: make([][store.HashSize]byte, 2)},
			{Hashes: make([][store.HashSize]byte, 1)}, {Hashes: make([][store.HashSize]byte, 3)},
		})
	})
	s := <-db.writer
	_, err := s.conn.ExecContext(context.Background(), "DELETE FROM log_leaves WHERE seq = 2")
	db.writer <- s
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(context.Background(), func(tx store.Tx) error {
		page, err := tx.Leaves(0, 10)
		if len(page) != 2 {
			t.Errorf("%d leaves before the gap, want 2", len(page))
		}
		if page, _ := tx.Leaves(2, 10); len(page) != 0 {
			t.Errorf("%d leaves in place of the deleted one", len(page))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
