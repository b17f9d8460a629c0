package ledger

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// live is a ledger with an administrator beside it.
type live struct {
	t   *testing.T
	l   *Ledger
	raw *sql.DB
}

func newLive(t *testing.T) *live {
	dir := t.TempDir()
	db := openDir(t, dir)
	l, err := Open(context.Background(), config(t, db))
	must(t, err)
	raw, err := sql.Open("sqlite", filepath.Join(dir, "cardkms.db")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	raw.SetMaxOpenConns(1) // ATTACH and TEMP are of one connection
	t.Cleanup(func() {
		must(t, raw.Close())
		_ = l.Close(context.Background())
		must(t, db.Close())
	})
	return &live{t, l, raw}
}

func (v *live) do(what string, rows ...store.Row) error {
	_, err := v.l.Do(context.Background(), func(tx store.Rows) (audit.Entry, error) {
		for _, r := range rows {
			if err := tx.Put(r); err != nil {
				return audit.Entry{}, err
			}
		}
		return entry(what), nil
	})
	return err
}

func (v *live) exec(queries ...string) {
	v.t.Helper()
	for _, q := range queries {
		_, err := v.raw.Exec(q)
		must(v.t, err)
	}
}

// keep copies the database as it is now.
func (v *live) keep(name string) {
	v.exec("CREATE TEMP TABLE rows_"+name+" AS SELECT * FROM state_rows", "CREATE TEMP TABLE leaves_"+name+" AS SELECT * FROM log_leaves")
}

func (v *live) putBack(name string) {
	v.exec("BEGIN IMMEDIATE", "DELETE FROM state_rows", "DELETE FROM log_leaves",
		"INSERT INTO state_rows SELECT * FROM rows_"+name, "INSERT INTO log_leaves SELECT * FROM leaves_"+name, "COMMIT")
}

// TestBackAndForward: an administrator puts an older database back under the
// running service, has it do something there, and puts the newer one back, so that
// nothing was ever done.
func TestBackAndForward(t *testing.T) {
	for name, touch := range map[string]func(*live) error{
		"write":  func(v *live) error { return v.do("secret") },
		"read":   func(v *live) error { return v.l.View(context.Background(), func(store.Rows) error { return nil }) },
		"leaves": func(v *live) error { _, err := v.l.Leaves(context.Background(), 0, 1); return err },
	} {
		t.Run(name, func(t *testing.T) {
			v := newLive(t)
			must(t, v.do("a", store.Row{Ref: rogueRef(0), Version: 1, Body: []byte("x")}))
			v.keep("older")
			must(t, v.do("b", store.Row{Ref: rogueRef(0), Version: 2, Body: []byte("y")}))
			v.keep("newer")
			v.putBack("older")
			if err := touch(v); fault.CodeOf(err) != fault.RollbackDetected {
				t.Errorf("under the older database: %v", err)
			}
			v.putBack("newer")
			if err := v.do("c"); fault.CodeOf(err) != fault.RollbackDetected {
				t.Errorf("under the newer one again: %v", err)
			}
		})
	}
}

// TestRowTwice: a deleted row is not hidden by another one that is there twice.
func TestRowTwice(t *testing.T) {
	v := newLive(t)
	var rows []store.Row
	for _, id := range []string{"a", "b", "c"} {
		rows = append(rows, store.Row{Ref: store.Ref{Kind: "policy", ID: id}, Version: 1, Body: []byte(id)})
	}
	must(t, v.do("policies", rows...))
	v.exec("CREATE TABLE copy AS SELECT * FROM state_rows", "DELETE FROM copy WHERE id = 'a' AND kind = 'policy'",
		"INSERT INTO copy SELECT * FROM copy WHERE id = 'b' AND kind = 'policy'", "DROP TABLE state_rows", "ALTER TABLE copy RENAME TO state_rows")
	err := v.l.View(context.Background(), func(tx store.Rows) error {
		_, err := tx.List("policy", "", "", 10)
		return err
	})
	if fault.CodeOf(err) != fault.ObjectTampered {
		t.Errorf("the list: %v", err)
	}
	if found, err := v.l.Scrub(context.Background()); err != nil || len(found) == 0 {
		t.Errorf("the scrub: %v, %v", found, err)
	}
}
