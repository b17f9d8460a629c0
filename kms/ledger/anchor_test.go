package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/audit/witness"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/note"
)

// memory is a Keeper whose content a test sees and changes.
type memory struct {
	kept  [][]byte
	fails error
	times int
}

func (m *memory) Newest(context.Context) ([][]byte, error) { return m.kept, m.fails }

func (m *memory) Keep(_ context.Context, note []byte) error {
	if m.fails == nil {
		m.kept, m.times = [][]byte{bytes.Clone(note)}, m.times+1
	}
	return m.fails
}

func anchored(t *testing.T, s store.Store, keepers ...Keeper) Config {
	cfg := config(t, s)
	for i, k := range keepers {
		cfg.Anchors = append(cfg.Anchors, Anchor{Name: "anchor-" + string(rune('a'+i)), Keeper: k})
	}
	return cfg
}

func sizeIn(t *testing.T, m *memory) int64 {
	t.Helper()
	if len(m.kept) != 1 {
		t.Fatalf("%d checkpoints are kept", len(m.kept))
	}
	c, err := audit.ParseCheckpoint(strings.SplitAfter(string(m.kept[0]), "\n\n")[0][:strings.Index(string(m.kept[0]), "\n\n")+1])
	must(t, err)
	return c.Size
}

func TestAnchoredKeepsEverything(t *testing.T) {
	m := &memory{}
	l := mustOpen(t, anchored(t, newStore(t), m))
	marks(t, l, 5)
	must(t, l.Anchored(context.Background()))
	if n := sizeIn(t, m); n != 5 {
		t.Errorf("the anchor keeps %d entries", n)
	}
	must(t, l.Anchored(context.Background()))
	if m.times != 1 {
		t.Errorf("a log that did not grow was kept %d times", m.times)
	}
	m.fails = errors.New("out of reach")
	mustDo(t, l, mark("more"))
	if err := l.Anchored(context.Background()); fault.CodeOf(err) != fault.AuditUnavailable || l.Size() != 6 {
		t.Errorf("an anchor that fails: %v", err)
	}
	m.fails = nil
}

// TestOlderDatabase restores a copy of the whole database, which nothing in it can
// show, in every relation to what the anchor knows.
func TestOlderDatabase(t *testing.T) {
	dir, past, ctx := t.TempDir(), t.TempDir(), context.Background()
	m := &memory{}
	run := func(name string, restore *Restoration) (err error) {
		s := openDir(t, dir)
		defer func() { must(t, s.Close()) }()
		cfg := anchored(t, s, m)
		cfg.Restore = restore
		l, err := Open(ctx, cfg)
		if err != nil {
			return err
		}
		mustDo(t, l, mark(name))
		must(t, l.Close(ctx))
		return nil
	}
	must(t, run("one", nil))
	copyDatabase(t, dir, past)
	must(t, run("two", nil))
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	for _, f := range files {
		must(t, os.Remove(f))
	}
	copyDatabase(t, past, dir)
	var v *Violation
	if err := run("three", nil); !errors.As(err, &v) || !strings.Contains(v.What, "anchor-a") {
		t.Fatalf("an older database: %v", err)
	}
	no, asked := errors.New("too few officers"), 0
	decide := func(err error) *Restoration {
		return &Restoration{Approve: func(ctx context.Context, l *Ledger, g Gap) (map[string]string, error) {
			asked++
			entries, rerr := l.Entries(ctx, 0, 10)
			if rerr != nil || len(entries) != 1 || g.From.Size != 2 || g.To.Size != 1 || g.From.Root == g.To.Root {
				t.Errorf("asked about %+v and %d entries, %v", g, len(entries), rerr)
			}
			return map[string]string{"to_size": "1"}, err
		}}
	}
	for range 2 { // a refusal leaves the database as it was
		if err := run("three", decide(no)); !errors.Is(err, no) {
			t.Errorf("officers refuse: %v", err)
		}
	}
	must(t, run("three", decide(nil)))
	must(t, run("four", decide(no))) // there is nothing to accept any more, and it goes on
	if asked != 3 {
		t.Errorf("officers were asked %d times", asked)
	}
	s := openDir(t, dir)
	t.Cleanup(func() { must(t, s.Close()) })
	l := mustOpen(t, anchored(t, s, m))
	entries, err := l.Entries(ctx, 0, 100)
	must(t, err)
	e := entries[1]
	if e.Operation != "log.restore" || e.Detail["to_size"] != "1" {
		t.Errorf("the entry of the restoration: %+v", e)
	}
}

func TestDeletedDatabase(t *testing.T) {
	m := &memory{}
	cfg := anchored(t, newStore(t), m)
	l := mustOpen(t, cfg)
	marks(t, l, 2)
	must(t, l.Anchored(context.Background()))
	if _, err := Open(context.Background(), anchored(t, newStore(t), m)); !errors.Is(err, ErrTampered) {
		t.Errorf("an empty database under an anchor: %v", err)
	}
}

func TestForeignAnchor(t *testing.T) {
	m := &memory{}
	cfg := configFor(t, newStore(t), otherKey)
	cfg.Anchors = []Anchor{{Name: "a", Keeper: m}}
	l := mustOpen(t, cfg)
	mustDo(t, l, mark("x"))
	must(t, l.Anchored(context.Background()))
	if _, err := Open(context.Background(), anchored(t, newStore(t), m)); !errors.Is(err, ErrTampered) {
		t.Errorf("an anchor under another key: %v", err)
	}
	broken := &memory{fails: errors.New("out of reach")}
	if _, err := Open(context.Background(), anchored(t, newStore(t), broken)); !errors.Is(err, broken.fails) {
		t.Errorf("an anchor that cannot be read: %v", err)
	}
}

// TestTwoCopies runs the service on two copies of one database with one token:
// they share the anchor in it, and whoever comes second is found out.
func TestTwoCopies(t *testing.T) {
	ctx := context.Background()
	first, second := written(t, 3), t.TempDir()
	copyDatabase(t, first, second)
	m := &memory{}
	open := func(dir string) *Ledger {
		s := openDir(t, dir)
		t.Cleanup(func() { must(t, s.Close()) })
		l, err := Open(ctx, anchored(t, s, m))
		must(t, err)
		return l
	}
	a, b := open(first), open(second)
	mustDo(t, a, mark("a1"))
	must(t, a.Anchored(ctx))
	mustDo(t, b, mark("b1"))
	mustDo(t, b, mark("b2"))
	if err := b.Anchored(ctx); fault.CodeOf(err) != fault.AuditUnavailable && fault.CodeOf(err) != fault.RollbackDetected {
		t.Errorf("the second copy anchors: %v", err)
	}
	if _, err := b.Do(ctx, mark("b3")); fault.CodeOf(err) != fault.RollbackDetected {
		t.Errorf("the second copy goes on: %v", err)
	}
	mustDo(t, a, mark("a2"))
	must(t, a.Close(ctx))
	_ = b.Close(ctx)
}

// witnessed starts a witness of the test's log.
func witnessed(t *testing.T, dir string) Witness {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte("the key of a witness for tests!!"))
	vkey, err := audit.CosignerKey("witness.example.net", key.Public().(ed25519.PublicKey))
	must(t, err)
	v, err := audit.NewVerifier(vkey)
	must(t, err)
	cosigner, err := audit.NewCosigner("witness.example.net", key, time.Now)
	must(t, err)
	srv, err := witness.NewServer(witness.Config{Dir: dir, Signer: cosigner, Logs: []note.Verifier{config(t, nil).Verifier}, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	web := httptest.NewServer(srv)
	t.Cleanup(func() { web.Close(); must(t, srv.Close()) })
	return Witness{Name: "w", Cosigner: &witness.Client{URL: web.URL, Verifier: v, HTTP: web.Client()}}
}

// round is one round of the routine, with every witness's time come.
func (l *Ledger) round(t *testing.T) {
	t.Helper()
	for name, st := range l.anchored {
		st.at = time.Time{}
		l.anchored[name] = st
	}
	l.routine(context.Background())
}

func TestWitnessCosigns(t *testing.T) {
	ctx := context.Background()
	w := witnessed(t, t.TempDir())
	cfg := config(t, newStore(t))
	cfg.Witnesses = []Witness{w}
	l := mustOpen(t, cfg)
	if _, err := l.Witnessed(ctx); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("before any cosignature: %v", err)
	}
	for i := range 3 {
		marks2(t, l, i)
		l.round(t)
		msg, err := l.Witnessed(ctx)
		must(t, err)
		c, err := audit.OpenCheckpoint(msg, origin, cfg.Verifier)
		if err != nil || c.Size != l.Size() {
			t.Errorf("cosigned %d of %d entries, %v", c.Size, l.Size(), err)
		}
		if _, err := audit.CosignatureTime(msg, w.Cosigner.(*witness.Client).Verifier); err != nil {
			t.Error(err)
		}
	}
}

func marks2(t *testing.T, l *Ledger, round int) {
	t.Helper()
	for i := range 4 {
		mustDo(t, l, mark(string(rune('a'+round))+string(rune('a'+i))))
	}
}

// TestWitnessSeesRollback restores database and every anchor; only the witness
// remembers.
func TestWitnessSeesRollback(t *testing.T) {
	ctx := context.Background()
	for name, more := range map[string]int{"shorter": 0, "a fork of the same size": 1, "a longer fork": 3} {
		t.Run(name, func(t *testing.T) {
			dir, w := t.TempDir(), witnessed(t, t.TempDir())
			past := t.TempDir()
			run := func(names ...string) error {
				s := openDir(t, dir)
				defer func() { must(t, s.Close()) }()
				cfg := config(t, s)
				cfg.Witnesses = []Witness{w}
				l, err := Open(ctx, cfg)
				must(t, err)
				for _, n := range names {
					mustDo(t, l, mark(n))
				}
				l.round(t)
				_, err = l.Do(ctx, mark(strings.Join(append(names, "last"), "-")))
				_ = l.Close(ctx)
				return err
			}
			must(t, run("one"))
			copyDatabase(t, dir, past)
			must(t, os.Remove(filepath.Join(dir, "cardkms.db")))
			copyDatabase(t, past, dir)
			s := openDir(t, dir)
			l, err := Open(ctx, config(t, s)) // the true log goes on, and is cosigned
			must(t, err)
			mustDo(t, l, mark("true"))
			l.cfg.Witnesses = []Witness{w}
			l.round(t)
			must(t, errors.Join(l.Close(ctx), s.Close()))
			must(t, os.Remove(filepath.Join(dir, "cardkms.db")))
			copyDatabase(t, past, dir)
			if err := run(strings.Fields("x y z")[:more]...); fault.CodeOf(err) != fault.RollbackDetected {
				t.Errorf("after the rollback: %v", err)
			}
		})
	}
}

// TestWitnessIsAway: nobody waits for a witness, and it comes back by itself.
func TestWitnessIsAway(t *testing.T) {
	dir := t.TempDir()
	cfg := config(t, newStore(t))
	away := witnessed(t, dir)
	client := away.Cosigner.(*witness.Client)
	url := client.URL
	client.URL = "http://127.0.0.1:1"
	cfg.Witnesses = []Witness{away}
	l := mustOpen(t, cfg)
	mustDo(t, l, mark("one"))
	l.round(t)
	mustDo(t, l, mark("two"))
	client.URL = url
	l.round(t)
	if _, err := l.Witnessed(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestFileKeeper(t *testing.T) {
	ctx := context.Background()
	f := File{filepath.Join(t.TempDir(), "checkpoint")}
	if kept, err := f.Newest(ctx); err != nil || len(kept) != 0 {
		t.Errorf("nothing is kept yet: %q, %v", kept, err)
	}
	for _, text := range []string{"one", "two"} {
		must(t, f.Keep(ctx, []byte(text)))
		if kept, err := f.Newest(ctx); err != nil || len(kept) != 1 || string(kept[0]) != text {
			t.Errorf("kept %q, %v", kept, err)
		}
	}
	if left, err := filepath.Glob(f.Path + ".*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := (File{filepath.Join(f.Path, "below a file")}).Keep(ctx, nil); err == nil {
		t.Error("kept in a directory that is not there")
	}
}
