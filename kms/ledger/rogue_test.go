package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// The suite of the rogue database administrator: somebody with full write access
// to the database, with copies of everything that was ever in it, and without the
// token's keys. Attacks are drawn from the classes of a table; each runs against a
// ledger that is open and against one that is opened afterwards.

// rogueCases is how many attacks the default test draws; CARDKMS_LONG has more.
func rogueCases() int {
	if os.Getenv("CARDKMS_LONG") != "" {
		return 10_000
	}
	return 560
}

// crime is one attack that was committed.
type crime struct {
	row   store.Ref // that was changed; zero for the log or the whole
	whole bool      // everything must be refused, not only the row
}

// scene is a database with a history.
type scene struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	db      *sql.DB
	old     map[store.Ref][]oldRow // earlier versions of rows, with their MACs
	anchor  File
	past    string // a copy of the whole database as it was before its last entries
	entries int
}

type oldRow struct {
	version int64
	body    []byte
	mac     []byte
}

const (
	rogueRows    = 24
	rogueEntries = 300 // more than a block
)

// newScene writes a history once; every case works on a copy of it.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir(), old: map[store.Ref][]oldRow{}, entries: rogueEntries}
	s.anchor = File{filepath.Join(s.dir, "anchor")}
	db := openDir(t, s.dir)
	l, err := Open(context.Background(), s.config(db))
	must(t, err)
	for i := range rogueEntries {
		ref := rogueRef(i % rogueRows)
		_, err := l.Do(context.Background(), func(rows store.Rows) (audit.Entry, error) {
			have, err := rows.Get(ref)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return audit.Entry{}, err
			}
			return entry("r" + strconv.Itoa(i)), rows.Put(store.Row{Ref: ref, Version: have.Version + 1, Body: fmt.Appendf(nil, "state %d", i)})
		})
		must(t, err)
		must(t, db.View(context.Background(), func(tx store.Tx) error {
			row, err := tx.Get(ref)
			s.old[ref] = append(s.old[ref], oldRow{row.Version, row.Body, row.MAC})
			return err
		}))
		if i == rogueEntries-20 {
			s.past = t.TempDir()
			copyDatabase(t, s.dir, s.past)
		}
	}
	must(t, l.Close(context.Background()))
	must(t, db.Close())
	return s
}

func rogueRef(i int) store.Ref {
	kinds := []store.Kind{"card", "key-version", "image", "package"}
	return store.Ref{Kind: kinds[i%4], Issuer: []string{"acme", "beta"}[i/4%2], ID: fmt.Sprintf("id-%d", i/8)}
}

func (s *scene) config(db store.Store) Config {
	cfg := config(s.t, db)
	cfg.Anchors = []Anchor{{Name: "file", Keeper: s.anchor}}
	return cfg
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyDatabase copies a database that no connection has open for writing.
func copyDatabase(t testing.TB, from, to string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, "cardkms.db*"))
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o600))
	}
}

// clone returns a copy of the scene on which one case may work.
func (s *scene) clone(t *testing.T, seed int64) *scene {
	c := *s
	c.t, c.dir, c.rng = t, t.TempDir(), rand.New(rand.NewSource(seed))
	copyDatabase(t, s.dir, c.dir)
	note, err := os.ReadFile(s.anchor.Path)
	must(t, err)
	c.anchor = File{filepath.Join(c.dir, "anchor")}
	must(t, os.WriteFile(c.anchor.Path, note, 0o600))
	c.db, err = sql.Open("sqlite", filepath.Join(c.dir, "cardkms.db")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	return &c
}

func (s *scene) exec(query string, args ...any) {
	s.t.Helper()
	r, err := s.db.Exec(query, args...)
	must(s.t, err)
	if n, _ := r.RowsAffected(); n == 0 {
		s.t.Fatalf("%s changed nothing", query)
	}
}

const where = " WHERE kind = ? AND issuer = ? AND id = ?"

func named(r store.Ref) []any { return []any{string(r.Kind), r.Issuer, r.ID} }

func (s *scene) any() store.Ref { return rogueRef(s.rng.Intn(rogueRows)) }

func (s *scene) seq() int { return s.rng.Intn(s.entries) }

// attacks are the classes of what somebody with the database can do.
var attacks = []struct {
	name   string
	commit func(*scene) crime
}{
	{"edit a row's body", func(s *scene) crime {
		r := s.any()
		s.exec("UPDATE state_rows SET body = CAST('forged' AS BLOB)"+where, named(r)...)
		return crime{row: r}
	}},
	{"edit a row's MAC", func(s *scene) crime {
		r := s.any()
		s.exec("UPDATE state_rows SET mac = randomblob(16)"+where, named(r)...)
		return crime{row: r}
	}},
	{"edit a row's version", func(s *scene) crime {
		r := s.any()
		s.exec("UPDATE state_rows SET version = version + ?"+where, append([]any{1 + s.rng.Intn(3)}, named(r)...)...)
		return crime{row: r}
	}},
	{"rename a row", func(s *scene) crime {
		r := s.any()
		column := []string{"id", "issuer"}[s.rng.Intn(2)]
		s.exec("UPDATE state_rows SET "+column+" = 'renamed'"+where, named(r)...)
		return crime{row: r}
	}},
	{"put back an older version", func(s *scene) crime {
		r := s.any()
		old := s.old[r][s.rng.Intn(len(s.old[r])-1)]
		s.exec("UPDATE state_rows SET version = ?, body = ?, mac = ?"+where, append([]any{old.version, old.body, old.mac}, named(r)...)...)
		return crime{row: r}
	}},
	{"put back an older body under the newest version", func(s *scene) crime {
		r := s.any()
		old := s.old[r][0]
		s.exec("UPDATE state_rows SET body = ?, mac = ?"+where, append([]any{old.body, old.mac}, named(r)...)...)
		return crime{row: r}
	}},
	{"copy another tenant's row", func(s *scene) crime {
		r := s.any()
		other := r
		other.Issuer = map[string]string{"acme": "beta", "beta": "acme"}[r.Issuer]
		if _, ok := s.old[other]; !ok {
			other = rogueRef((s.rng.Intn(rogueRows-1) + 1) % rogueRows)
		}
		s.exec("UPDATE state_rows SET (version, body, mac) = (SELECT version, body, mac FROM state_rows"+where+")"+where, append(named(other), named(r)...)...)
		if other == r {
			s.exec("UPDATE state_rows SET body = zeroblob(1)"+where, named(r)...)
		}
		return crime{row: r}
	}},
	{"swap two rows", func(s *scene) crime {
		a := s.any()
		b := a
		for b == a {
			b = s.any()
		}
		x, y := s.old[a][len(s.old[a])-1], s.old[b][len(s.old[b])-1]
		s.exec("UPDATE state_rows SET version = ?, body = ?, mac = ?"+where, append([]any{y.version, y.body, y.mac}, named(a)...)...)
		s.exec("UPDATE state_rows SET version = ?, body = ?, mac = ?"+where, append([]any{x.version, x.body, x.mac}, named(b)...)...)
		return crime{row: a}
	}},
	{"delete a row", func(s *scene) crime {
		r := s.any()
		s.exec("DELETE FROM state_rows"+where, named(r)...)
		return crime{row: r}
	}},
	{"insert a forged row", func(s *scene) crime {
		r := s.any()
		r.ID = "new-" + strconv.Itoa(s.rng.Intn(1000))
		s.exec("INSERT INTO state_rows (kind, issuer, id, version, body, mac) VALUES (?, ?, ?, 1, CAST('forged' AS BLOB), randomblob(16))", named(r)...)
		return crime{row: r}
	}},
	{"duplicate a row under another name", func(s *scene) crime {
		r := s.any()
		n := r
		n.ID = "copy"
		s.exec("INSERT INTO state_rows SELECT kind, issuer, 'copy', version, body, mac FROM state_rows"+where, named(r)...)
		return crime{row: n}
	}},
	{"edit a bucket of the state map", func(s *scene) crime {
		column := []string{"body = zeroblob(60)", "version = version + 1", "mac = zeroblob(1)"}[s.rng.Intn(3)]
		s.exec("UPDATE state_rows SET " + column + " WHERE kind = 'state-map'")
		return crime{row: s.any()}
	}},
	{"delete the state map", func(s *scene) crime {
		s.exec("DELETE FROM state_rows WHERE kind = 'state-map'")
		return crime{row: s.any()}
	}},
	{"edit the head", func(s *scene) crime {
		column := []string{"body = replace(CAST(body AS TEXT), 'size', 'size ')", "version = version + 1", "mac = randomblob(16)"}[s.rng.Intn(3)]
		s.exec("UPDATE state_rows SET " + strings.Replace(column, "replace(", "CAST(replace(", 1) +
			map[bool]string{true: " AS BLOB)", false: ""}[strings.Contains(column, "replace")] + " WHERE kind = 'log' AND id = 'head'")
		return crime{whole: true}
	}},
	{"delete the head", func(s *scene) crime {
		s.exec("DELETE FROM state_rows WHERE kind = 'log' AND id = 'head'")
		return crime{whole: true}
	}},
	{"put back the older head", func(s *scene) crime {
		body, mac, version := s.pastHead()
		s.exec("UPDATE state_rows SET body = ?, mac = ?, version = ? WHERE kind = 'log' AND id = 'head'", body, mac, version)
		return crime{whole: true}
	}},
	{"edit the checkpoint", func(s *scene) crime {
		s.exec("UPDATE state_rows SET body = CAST(replace(CAST(body AS TEXT), 'time 2026', 'time 2025') AS BLOB) WHERE kind = 'log' AND id = 'checkpoint'")
		return crime{whole: true}
	}},
	{"edit an entry", func(s *scene) crime {
		s.exec("UPDATE log_leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'allowed', 'refused') AS BLOB) WHERE seq = ?", s.seq())
		return crime{whole: true}
	}},
	{"edit an entry and its hash", func(s *scene) crime {
		seq := s.seq()
		leaf := s.leaf(seq)
		leaf = bytes.Replace(leaf, []byte("allowed"), []byte("refused"), 1)
		h := audit.LeafHash(leaf)
		s.exec("UPDATE log_leaves SET leaf = ?, hashes = CAST(? || substr(hashes, 33) AS BLOB) WHERE seq = ?", leaf, h[:], seq)
		return crime{whole: true}
	}},
	{"edit an entry and recompute the whole tree", func(s *scene) crime {
		s.rewrite(func(leaves [][]byte) [][]byte {
			i := s.seq()
			leaves[i] = bytes.Replace(leaves[i], []byte("allowed"), []byte("refused"), 1)
			return leaves
		})
		return crime{whole: true}
	}},
	{"delete an entry and recompute the whole tree", func(s *scene) crime {
		s.rewrite(func(leaves [][]byte) [][]byte {
			i := s.seq()
			return append(leaves[:i:i], leaves[i+1:]...)
		})
		return crime{whole: true}
	}},
	{"swap two entries", func(s *scene) crime {
		i := s.rng.Intn(s.entries - 1)
		a, b := s.leaf(i), s.leaf(i+1)
		s.exec("UPDATE log_leaves SET leaf = ? WHERE seq = ?", b, i)
		s.exec("UPDATE log_leaves SET leaf = ? WHERE seq = ?", a, i+1)
		return crime{whole: true}
	}},
	{"edit a stored hash", func(s *scene) crime {
		s.exec("UPDATE log_leaves SET hashes = CAST(substr(hashes, 1, length(hashes) - 1) || x'"+fmt.Sprintf("%02X", s.rng.Intn(256))+"00' AS BLOB) WHERE seq = ?", s.seq())
		return crime{whole: true}
	}},
	{"delete an entry", func(s *scene) crime {
		s.exec("DELETE FROM log_leaves WHERE seq = ?", s.seq())
		return crime{whole: true}
	}},
	{"cut the log", func(s *scene) crime {
		s.exec("DELETE FROM log_leaves WHERE seq >= ?", s.seq())
		return crime{whole: true}
	}},
	{"cut the log and put back the older head, map and rows", func(s *scene) crime {
		s.goBack()
		return crime{whole: true}
	}},
	{"append an entry", func(s *scene) crime {
		s.exec("INSERT INTO log_leaves SELECT ?, leaf, substr(hashes, 1, 32), touched FROM log_leaves WHERE seq = 0", s.entries)
		return crime{whole: true}
	}},
}

func (s *scene) leaf(seq int) (leaf []byte) {
	must(s.t, s.db.QueryRow("SELECT leaf FROM log_leaves WHERE seq = ?", seq).Scan(&leaf))
	return leaf
}

// rewrite replaces the log by another one with a tree that is right for it.
func (s *scene) rewrite(change func([][]byte) [][]byte) {
	leaves := make([][]byte, s.entries)
	for i := range leaves {
		leaves[i] = s.leaf(i)
	}
	tx, err := s.db.Begin()
	must(s.t, err)
	_, err = tx.Exec("DELETE FROM log_leaves")
	must(s.t, err)
	var edge audit.Edge
	for i, leaf := range change(leaves) {
		var record []byte
		for _, h := range edge.Append(audit.LeafHash(leaf)) {
			record = append(record, h[:]...)
		}
		_, err = tx.Exec("INSERT INTO log_leaves (seq, leaf, hashes) VALUES (?, ?, ?)", i, leaf, record)
		must(s.t, err)
	}
	must(s.t, tx.Commit())
}

func (s *scene) attachPast() {
	_, err := s.db.Exec("ATTACH ? AS past", filepath.Join(s.past, "cardkms.db"))
	must(s.t, err)
}

func (s *scene) pastHead() (body, mac []byte, version int64) {
	s.db.SetMaxOpenConns(1) // ATTACH is of one connection
	s.attachPast()
	must(s.t, s.db.QueryRow("SELECT body, mac, version FROM past.state_rows WHERE kind = 'log' AND id = 'head'").Scan(&body, &mac, &version))
	return body, mac, version
}

// goBack puts back everything but the file itself.
func (s *scene) goBack() {
	s.db.SetMaxOpenConns(1)
	s.attachPast()
	for _, q := range []string{
		"BEGIN IMMEDIATE", "DELETE FROM state_rows", "DELETE FROM log_leaves",
		"INSERT INTO state_rows SELECT * FROM past.state_rows", "INSERT INTO log_leaves SELECT * FROM past.log_leaves", "COMMIT",
	} {
		_, err := s.db.Exec(q)
		must(s.t, err)
	}
}

// TestRogueAdministrator draws attacks. Each must be detected within one request
// that touches what was changed, by one round of the guard if nothing touches it,
// and by the next start.
func TestRogueAdministrator(t *testing.T) {
	base := newScene(t)
	seed := int64(1)
	detected := map[string]int{}
	for i := range rogueCases() {
		a := attacks[i%len(attacks)]
		how := []string{"touched", "untouched", "restarted"}[i/len(attacks)%3]
		t.Run(fmt.Sprintf("%s/%s/%d", a.name, how, i), func(t *testing.T) {
			s := base.clone(t, seed+int64(i))
			defer func() { must(t, s.db.Close()) }()
			if how == "restarted" {
				s.restarted(a.commit)
			} else {
				s.running(a.commit, how == "touched")
			}
		})
		detected[how]++
	}
	t.Logf("%d attacks of %d classes: %v", rogueCases(), len(attacks), detected)
}

// restarted attacks a database that nobody has open.
func (s *scene) restarted(commit func(*scene) crime) {
	c := commit(s)
	db := openDir(s.t, s.dir)
	defer func() { must(s.t, db.Close()) }()
	l, err := Open(context.Background(), s.config(db))
	if err != nil {
		if !errors.Is(err, ErrTampered) {
			s.t.Errorf("Open: %v", err)
		}
		return
	}
	defer func() { _ = l.Close(context.Background()) }()
	if c.whole {
		s.t.Fatal("the start accepts the database")
	}
	s.named(l, c.row)
	s.refusedRow(l, c.row)
}

// running attacks under an open ledger.
func (s *scene) running(commit func(*scene) crime, touch bool) {
	db := openDir(s.t, s.dir)
	defer func() { must(s.t, db.Close()) }()
	l, err := Open(context.Background(), s.config(db))
	must(s.t, err)
	defer func() { _ = l.Close(context.Background()) }()
	c := commit(s)
	if touch && !c.whole {
		s.refusedRow(l, c.row)
		return
	}
	if touch && s.touchLog(l) {
		return
	}
	l.guard(context.Background())
	if c.whole {
		if err := l.View(context.Background(), func(store.Rows) error { return nil }); fault.CodeOf(err) != fault.RollbackDetected {
			s.t.Errorf("after one round of the guard: %v", err)
		}
		return
	}
	s.named(l, c.row)
}

// touchLog reads the whole log and writes an entry, and reports whether either
// was refused. What an open ledger does not read again, such as the checkpoint,
// is for the guard.
func (s *scene) touchLog(l *Ledger) bool {
	_, err := l.Leaves(context.Background(), 0, s.entries)
	if err == nil {
		_, err = l.Do(context.Background(), func(store.Rows) (audit.Entry, error) { return entry("touch"), nil })
	}
	if err != nil && fault.CodeOf(err) != fault.RollbackDetected {
		s.t.Errorf("touching the log: %v", err)
	}
	return err != nil
}

// refusedRow reads a row as a request would, alone and in its list.
func (s *scene) refusedRow(l *Ledger, ref store.Ref) {
	s.t.Helper()
	err := l.View(context.Background(), func(rows store.Rows) error {
		_, err := rows.Get(ref)
		return err
	})
	if code := fault.CodeOf(err); code != fault.ObjectTampered && code != fault.RollbackDetected {
		s.t.Errorf("reading the row %v: %v", ref, err)
	}
	err = l.View(context.Background(), func(rows store.Rows) error {
		_, err := rows.List(ref.Kind, ref.Issuer, "", 100)
		return err
	})
	if code := fault.CodeOf(err); code != fault.ObjectTampered && code != fault.RollbackDetected {
		s.t.Errorf("listing the rows of %v: %v", ref, err)
	}
	_, err = l.Do(context.Background(), func(rows store.Rows) (audit.Entry, error) {
		return entry("over it"), rows.Put(store.Row{Ref: ref, Version: 1 + s.rng.Int63n(20)})
	})
	if code := fault.CodeOf(err); code != fault.ObjectTampered && code != fault.RollbackDetected {
		s.t.Errorf("writing over the row %v: %v", ref, err)
	}
}

// named checks that what was found names the row, or the map that covers it.
func (s *scene) named(l *Ledger, ref store.Ref) {
	s.t.Helper()
	for _, v := range l.Violations() {
		if v.Ref == ref || v.Ref.Kind == kindStateMap || v.Ref == (store.Ref{}) {
			return
		}
	}
	s.t.Errorf("%v is not named in %v", ref, l.Violations())
}

// TestCleanDatabaseIsNotFlagged: the guard finds nothing in what was not touched,
// also while others write.
func TestCleanDatabaseIsNotFlagged(t *testing.T) {
	s := newScene(t).clone(t, 1)
	defer func() { must(t, s.db.Close()) }()
	db := openDir(t, s.dir)
	defer func() { must(t, db.Close()) }()
	l, err := Open(context.Background(), s.config(db))
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			mustDo(t, l, mark("w"+strconv.Itoa(i)))
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		l.guard(context.Background())
		if v := l.Violations(); len(v) > 0 {
			t.Fatalf("a clean database is flagged: %v", v)
		}
		_, err := l.Checkpoint(context.Background())
		must(t, err)
	}
	must(t, l.Close(context.Background()))
}
