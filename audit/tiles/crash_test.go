package tiles

import (
	"crypto/ed25519"
	"errors"
	"iter"
	"os"
	"testing"
	"time"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
)

var errPower = errors.New("power lost")

// TestCrashAtEveryRename stops an export of a log that has grown at each of its
// renames, before and after, and wants the directory to be recognised as what it
// was, and to become what it should.
func TestCrashAtEveryRename(t *testing.T) {
	log, sources := logs(t, 300, 700)
	for after := range 2 {
		for at := 0; ; at++ {
			dir := t.TempDir()
			if _, err := Write(dir, log, sources[0]); err != nil {
				t.Fatal(err)
			}
			done := crash(t, dir, log, sources[1], at, after == 1)
			c, _, err := Dir{dir, os.DirFS(dir)}.Checkpoint(log)
			if err != nil || c.Size != 300 && c.Size != 700 {
				t.Fatalf("rename %d: the directory has %d entries, %v", at, c.Size, err)
			}
			if _, err := Write(dir, log, sources[1]); err != nil {
				t.Fatalf("rename %d: going on: %v", at, err)
			}
			if r, err := Verify(Policy{Log: log}, Dir{dir, os.DirFS(dir)}); err != nil || r.Entries != 700 {
				t.Fatalf("rename %d: %+v, %v", at, r, err)
			}
			if done {
				if at < 5 {
					t.Errorf("%d renames are too few to mean anything", at)
				}
				break
			}
		}
	}
}

// TestKeptNamesAreSynced: what a Write that broke off renamed may have no durable
// name yet, so its directories are synced before the checkpoint that covers it.
func TestKeptNamesAreSynced(t *testing.T) {
	log, sources := logs(t, 600)
	dir := t.TempDir()
	for at := 0; !crash(t, dir, log, sources[0], at, true); at++ {
		w := &writer{dir: Dir{dir, os.DirFS(dir)}, src: sources[0], disk: disk{root: dir, rename: os.Rename}}
		w.checkpoint.Size = 600
		if err := w.open(log); err != nil {
			t.Fatal(err)
		}
		if w.whole > 0 && (!w.changed["tile/0"] || !w.changed["tile/entries"] || !w.changed["tile"]) {
			t.Errorf("rename %d: %d files are kept; to be synced: %v", at, w.whole, w.changed)
		}
	}
	d := disk{root: dir, rename: os.Rename}
	same, err := os.ReadFile(d.file("tile/0/002.p/88"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.put("tile/0/002.p/88", same); err != nil || !d.changed["tile/0/002.p"] || !d.changed["tile/0"] {
		t.Errorf("an equal file: %v; to be synced: %v", err, d.changed)
	}
}

// crash runs a Write that loses power at its rename number at, and reports
// whether it got to its end before.
func crash(t *testing.T, dir string, log note.Verifier, src Source, at int, after bool) (done bool) {
	t.Helper()
	c, err := audit.OpenCheckpoint(src.Checkpoint, log.Name(), log)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{dir: Dir{dir, os.DirFS(dir)}, src: src, checkpoint: c, disk: disk{root: dir}}
	w.rename = func(from, to string) error {
		if at--; at >= 0 {
			return os.Rename(from, to)
		}
		if after {
			return errors.Join(os.Rename(from, to), errPower)
		}
		return errPower
	}
	err = w.write(log)
	if err != nil && !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	return err == nil
}

// logs returns one log at two sizes.
func logs(t *testing.T, sizes ...int) (note.Verifier, []Source) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	vkey, err := audit.VerifierKey("o", private.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewSigner("o", private.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(private, m), nil })
	if err != nil {
		t.Fatal(err)
	}
	var out []Source
	for _, size := range sizes {
		var edge audit.Edge
		var entries [][]byte
		for n := range size {
			e := audit.Entry{Sequence: int64(n), Time: time.Unix(int64(n), 0), Actor: "service", Operation: "a", Decision: audit.Allowed, Outcome: "ok"}
			b, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, b)
			edge.Append(audit.LeafHash(b))
		}
		msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: "o", Size: edge.Size(), Root: edge.Root()}, s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Source{Checkpoint: msg, Entries: func(from int64) iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) {
				for _, b := range entries[from:] {
					if !yield(b, nil) {
						return
					}
				}
			}
		}})
	}
	return v, out
}
