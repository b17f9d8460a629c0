package ledger

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// written returns the directory of a closed store with n signed entries.
func written(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	s := openDir(t, dir)
	l, err := Open(context.Background(), config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	marks(t, l, n)
	if err := errors.Join(l.Close(context.Background()), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func reopen(t *testing.T, dir string) (*Ledger, error) {
	t.Helper()
	s := openDir(t, dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return Open(context.Background(), config(t, s))
}

func TestRestartGoesOn(t *testing.T) {
	dir := written(t, 13)
	l, err := reopen(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if seq := mustDo(t, l, mark("next")); seq != 13 || len(requests(t, l)) != 14 {
		t.Errorf("sequence %d after a restart", seq)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestRestartWithUnsignedEntries stops without Close, as a crash does.
func TestRestartWithUnsignedEntries(t *testing.T) {
	s := newStore(t)
	marks(t, mustOpen(t, config(t, s)), 5)
	l := mustOpen(t, config(t, s))
	if l.Size() != 5 || len(requests(t, l)) != 5 {
		t.Errorf("%d entries after a restart", l.Size())
	}
}

// TestOpenDetectsTampering is the attacker with full write access to the file
// and without the log's key. Restoring an older file as a whole cannot be seen
// from inside it; that is for anchors to detect. Rows are in rogue_test.go.
func TestOpenDetectsTampering(t *testing.T) {
	leaf := "UPDATE log_leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'allowed', 'refused') AS BLOB) WHERE seq = "
	for name, attack := range map[string]string{
		"first leaf edited":           leaf + "0",
		"middle leaf edited":          leaf + "6",
		"last leaf edited":            leaf + "12",
		"leaf hash edited":            "UPDATE log_leaves SET hashes = zeroblob(length(hashes)) WHERE seq = 2",
		"hash inside the tree edited": "UPDATE log_leaves SET hashes = CAST(substr(hashes, 1, 32) || zeroblob(length(hashes) - 32) AS BLOB) WHERE seq = 1",
		"hash of the edge edited":     "UPDATE log_leaves SET hashes = zeroblob(length(hashes)) WHERE seq = 7",
		"hash deleted":                "UPDATE log_leaves SET hashes = zeroblob(0) WHERE seq = 2",
		"hash of the edge deleted":    "UPDATE log_leaves SET hashes = substr(hashes, 1, 32) WHERE seq = 7",
		"tail cut":                    "DELETE FROM log_leaves WHERE seq = 12",
		"middle leaf deleted":         "DELETE FROM log_leaves WHERE seq = 5",
		"middle leaf emptied":         "UPDATE log_leaves SET leaf = zeroblob(0) WHERE seq = 5",
		"two leaves swapped":          "UPDATE log_leaves SET leaf = (SELECT l.leaf FROM log_leaves l WHERE l.seq = 9 - log_leaves.seq) WHERE seq IN (4, 5)",
		"leaf appended":               "INSERT INTO log_leaves SELECT 13, leaf, hashes, touched FROM log_leaves WHERE seq = 12",
		"log deleted":                 "DELETE FROM log_leaves",
		"log and head deleted":        "DELETE FROM log_leaves; DELETE FROM state_rows WHERE kind = 'log'",
		"checkpoint deleted":          "DELETE FROM state_rows WHERE kind = 'log' AND id = 'checkpoint'",
		"checkpoint edited":           "UPDATE state_rows SET body = CAST(replace(CAST(body AS TEXT), char(10) || '13' || char(10), char(10) || '12' || char(10)) AS BLOB) WHERE id = 'checkpoint'",
		"checkpoint emptied":          "UPDATE state_rows SET body = zeroblob(0) WHERE id = 'checkpoint'",
		"head deleted":                "DELETE FROM state_rows WHERE kind = 'log' AND id = 'head'",
		"head edited":                 "UPDATE state_rows SET body = CAST(replace(CAST(body AS TEXT), 'size 13', 'size 12') AS BLOB) WHERE id = 'head'; DELETE FROM log_leaves WHERE seq = 12",
		"MAC of the head edited":      "UPDATE state_rows SET mac = zeroblob(16) WHERE id = 'head'",
		"state map deleted":           "DELETE FROM state_rows WHERE kind = 'state-map'",
		"bucket edited":               "UPDATE state_rows SET body = zeroblob(50) WHERE kind = 'state-map' AND id = (SELECT min(id) FROM state_rows WHERE kind = 'state-map')",
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, 13)
			db, err := sql.Open("sqlite", filepath.Join(dir, "cardkms.db"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = db.Exec(attack)
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := reopen(t, dir); !errors.Is(err, ErrTampered) || fault.CodeOf(err) == fault.ObjectTampered {
				t.Errorf("Open = %v, want ErrTampered of the whole", err)
			}
		})
	}
}

func TestOpenRefusesAForeignCheckpoint(t *testing.T) {
	for name, forge := range map[string]func(cfg *Config){
		"other key":    func(cfg *Config) { *cfg = configFor(t, cfg.Store, otherKey) },
		"other origin": func(cfg *Config) { cfg.Origin = "other.example.com" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			forged := config(t, s)
			forge(&forged)
			mustOpen(t, forged)
			if _, err := Open(context.Background(), config(t, s)); !errors.Is(err, ErrTampered) {
				t.Errorf("Open = %v, want ErrTampered", err)
			}
		})
	}
}

// TestRunningLedgerDetects: a log that is cut or edited under a running ledger is
// neither continued nor signed.
func TestRunningLedgerDetects(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	l, err := Open(context.Background(), config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	marks(t, l, 7)
	db, err := sql.Open("sqlite", filepath.Join(dir, "cardkms.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE log_leaves SET leaf = zeroblob(3) WHERE seq = 4"); err != nil {
		t.Fatal(err)
	}
	if found, err := l.Scrub(context.Background()); err != nil || len(found) != 1 || !strings.Contains(found[0].What, "entry 4") {
		t.Errorf("Scrub = %v, %v, want entry 4", found, err)
	}
	if _, err := l.Entries(context.Background(), 6, 1); fault.CodeOf(err) != fault.RollbackDetected {
		t.Errorf("Entries = %v, want a sealed ledger", err)
	}
	if _, err := db.Exec("DELETE FROM log_leaves WHERE seq = 6"); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Do":    second(l.Do(context.Background(), mark("next"))),
		"View":  l.View(context.Background(), func(store.Rows) error { t.Error("the View ran"); return nil }),
		"Close": l.Close(context.Background()),
	} {
		if !errors.Is(err, ErrTampered) || fault.CodeOf(err) != fault.RollbackDetected {
			t.Errorf("%s = %v, want a sealed ledger", name, err)
		}
	}
	if exists(t, s, "next") {
		t.Error("a sealed ledger wrote")
	}
	if err := errors.Join(db.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestTwoLedgersOnOneStore: each follows what the other wrote, as nodes do, and
// neither replaces a checkpoint by a smaller one.
func TestTwoLedgersOnOneStore(t *testing.T) {
	s := newStore(t)
	a, b := mustOpen(t, config(t, s)), mustOpen(t, config(t, s))
	for i := range 6 {
		l := []*Ledger{a, b}[i%2]
		if seq := mustDo(t, l, mark("r"+strconv.Itoa(i))); seq != int64(i) {
			t.Errorf("sequence %d, want %d", seq, i)
		}
		if i == 3 {
			if _, err := a.Checkpoint(context.Background()); err != nil { // knows 3 entries
				t.Fatal(err)
			}
		}
	}
	if got := len(requests(t, b)); got != 6 {
		t.Errorf("%d entries", got)
	}
	newest, err := a.Checkpoint(context.Background()) // knows 5, and finds that of 6
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.OpenCheckpoint(newest, origin, a.cfg.Verifier)
	if err != nil || c.Size != 6 {
		t.Errorf("checkpoint of %d entries, %v", c.Size, err)
	}
}
