package ledger

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strconv"
	"testing"

	"cardkms/audit"
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
// from inside it; that is for anchors to detect.
func TestOpenDetectsTampering(t *testing.T) {
	leaf := "UPDATE log_leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'allowed', 'refused') AS BLOB) WHERE seq = "
	for name, attack := range map[string]string{
		"first leaf edited":           leaf + "0",
		"middle leaf edited":          leaf + "6",
		"last leaf edited":            leaf + "12",
		"leaf hash edited":            "UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 3",
		"hash inside the tree edited": "UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 2",
		"hash of the edge edited":     "UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 14",
		"hash deleted":                "DELETE FROM log_hashes WHERE idx = 2",
		"hash of the edge deleted":    "DELETE FROM log_hashes WHERE idx = 14",
		"tail cut":                    "DELETE FROM log_leaves WHERE seq = 12",
		"middle leaf deleted":         "DELETE FROM log_leaves WHERE seq = 5",
		"two leaves swapped":          "UPDATE log_leaves SET leaf = (SELECT l.leaf FROM log_leaves l WHERE l.seq = 9 - log_leaves.seq) WHERE seq IN (4, 5)",
		"leaf appended":               "INSERT INTO log_leaves SELECT 13, leaf FROM log_leaves WHERE seq = 12",
		"leaves and hashes deleted":   "DELETE FROM log_leaves; DELETE FROM log_hashes",
		"checkpoint deleted":          "DELETE FROM state_rows WHERE kind = 'checkpoint'",
		"checkpoint edited":           "UPDATE state_rows SET body = CAST(replace(CAST(body AS TEXT), char(10) || '13' || char(10), char(10) || '12' || char(10)) AS BLOB) WHERE kind = 'checkpoint'",
		"checkpoint emptied":          "UPDATE state_rows SET body = zeroblob(0) WHERE kind = 'checkpoint'",
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
			if _, err := reopen(t, dir); !errors.Is(err, ErrTampered) {
				t.Errorf("Open = %v, want ErrTampered", err)
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
	if _, err := l.Checkpoint(context.Background()); !errors.Is(err, ErrTampered) {
		t.Errorf("Checkpoint = %v, want ErrTampered", err)
	}
	if err := l.Scrub(context.Background()); !errors.Is(err, ErrTampered) {
		t.Errorf("Scrub = %v, want ErrTampered", err)
	}
	if _, err := l.Entries(context.Background(), 0, 7); !errors.Is(err, ErrTampered) {
		t.Errorf("Entries = %v, want ErrTampered", err)
	}
	if _, err := db.Exec("DELETE FROM log_leaves WHERE seq = 6"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Do(context.Background(), mark("next")); !errors.Is(err, ErrTampered) || exists(t, s, "next") {
		t.Errorf("Do = %v, want ErrTampered", err)
	}
	if err := l.Close(context.Background()); !errors.Is(err, ErrTampered) {
		t.Errorf("Close = %v, want ErrTampered", err)
	}
	if err := errors.Join(db.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

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
