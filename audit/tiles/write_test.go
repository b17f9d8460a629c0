package tiles_test

import (
	"errors"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"cardkms/audit"
	"cardkms/audit/tiles"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

// TestGrowth: an export that grows step by step is the export that was made in
// one, file for file, and only what follows the whole files is read again.
func TestGrowth(t *testing.T) {
	entries := written(t, 1100, "ok")
	dir := t.TempDir()
	_, p := keys(t)
	kept := 0
	for _, size := range []int{0, 1, 1, 200, 255, 256, 257, 600, 1024, 1100} {
		src := source(t, entries[:size])
		from := int64(-1)
		all := src.Entries
		src.Entries = func(n int64) iter.Seq2[[]byte, error] { from = n; return all(n) }
		write(t, dir, src)
		if from != int64(kept) {
			t.Errorf("size %d: read from entry %d, want %d", size, from, kept)
		}
		kept = size / 256 * 256
		want := load(t, export(t, entries[:size]))
		if diff := cmp.Diff(want.names(), load(t, dir).names()); diff != "" {
			t.Fatalf("size %d: %s", size, diff)
		}
		if diff := cmp.Diff(want, load(t, dir)); diff != "" {
			t.Fatalf("size %d: other content", size)
		}
		if _, err := tiles.Verify(p, dirOf(dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteRefuses: nothing but the log that the checkpoint signed becomes an
// export, and an export of one log never becomes that of another.
func TestWriteRefuses(t *testing.T) {
	_, p := keys(t)
	good, other := written(t, 600, "ok"), written(t, 700, "internal")
	forged := append(append([][]byte{}, good[:300]...), other[300:600]...)
	short, wrong := source(t, good), source(t, good)
	short.Entries = func(from int64) iter.Seq2[[]byte, error] { return each(good[min(from, 599):599]) }
	wrong.Entries = func(from int64) iter.Seq2[[]byte, error] { return each(forged[from:]) }
	broken := source(t, good)
	broken.Entries = func(int64) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) { yield(nil, errTest) }
	}
	empty := source(t, append(good[:599:599], nil))
	for _, tt := range []struct {
		name   string
		before [][]byte
		src    tiles.Source
		want   error
	}{
		{"too few entries", nil, short, tiles.ErrSource},
		{"other entries", nil, wrong, tiles.ErrSource},
		{"source fails", nil, broken, errTest},
		{"smaller log", good, source(t, good[:599]), tiles.ErrSource},
		{"fork in a whole file", good, source(t, other), tiles.ErrSource},
		{"fork in the partial file", good[:520], source(t, append(append([][]byte{}, good[:519]...), other[519:600]...)), tiles.ErrSource},
		{"fork of the same size", good, source(t, forged), tiles.ErrSource},
		{"no entry", nil, empty, nil},
		{"no checkpoint", nil, tiles.Source{}, audit.ErrCheckpoint},
		{"segment starts anywhere", nil, tiles.Source{Checkpoint: source(t, good).Checkpoint, First: 100}, nil},
		{"segment starts past the end", nil, tiles.Source{Checkpoint: source(t, good).Checkpoint, First: 768}, nil},
	} {
		dir := t.TempDir()
		if tt.before != nil {
			write(t, dir, source(t, tt.before))
		}
		before, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
		if (err == nil) != (tt.before != nil) {
			t.Fatal(err)
		}
		if _, err := tiles.Write(dir, p.Log, tt.src); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "checkpoint")); string(after) != string(before) {
			t.Errorf("%s: the checkpoint was replaced", tt.name)
		}
	}
}

var errTest = errors.New("connection lost")

// TestWriteRefusesDamage: what the old checkpoint covers is not repaired in
// silence.
func TestWriteRefusesDamage(t *testing.T) {
	_, p := keys(t)
	entries := written(t, 700, "ok")
	for _, name := range []string{"checkpoint", "tile/0/001", "tile/1/000.p/2", "tile/entries/000", "tile/entries/002.p/88"} {
		dir := export(t, entries[:600])
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		var file *tiles.FileError
		if _, err := tiles.Write(dir, p.Log, source(t, entries)); !errors.As(err, &file) || file.Path != dir+"/"+name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWriteGoesOn: an export whose source failed, in a new directory and in one
// that has a checkpoint, is recognised, and goes on where it broke off.
func TestWriteGoesOn(t *testing.T) {
	_, p := keys(t)
	entries := written(t, 900, "ok")
	for _, before := range []int{-1, 0, 300} {
		dir := t.TempDir()
		if before >= 0 {
			write(t, dir, source(t, entries[:before]))
		}
		src := source(t, entries)
		all := src.Entries
		src.Entries = func(from int64) iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) {
				for e := range each(entries[from:800]) {
					if !yield(e, nil) {
						return
					}
				}
				yield(nil, errTest)
			}
		}
		if _, err := tiles.Write(dir, p.Log, src); !errors.Is(err, errTest) {
			t.Fatal(err)
		}
		_, err := tiles.Verify(p, dirOf(dir))
		if before < 0 {
			wantFile(t, "broken off", err, "checkpoint")
		} else if err == nil {
			t.Error("an export that broke off verifies")
		}
		src.Entries = func(from int64) iter.Seq2[[]byte, error] {
			if from != 768 {
				t.Errorf("before %d: goes on from %d", before, from)
			}
			return all(from)
		}
		write(t, dir, src)
		if diff := cmp.Diff(load(t, export(t, entries)), load(t, dir)); diff != "" {
			t.Errorf("before %d: other content", before)
		}
	}
}

// segment returns a directory with the entries from first on.
func segment(t testing.TB, entries [][]byte, first int64) string {
	t.Helper()
	src := source(t, entries)
	src.First = first
	src.LeafHashes = func(from int64) iter.Seq2[tlog.Hash, error] {
		var hashes []tlog.Hash
		for _, e := range entries[from:] {
			hashes = append(hashes, audit.LeafHash(e))
		}
		return each(hashes)
	}
	dir := t.TempDir()
	write(t, dir, src)
	return dir
}

// TestSegments: segments that have every entry together are the log, in any
// order; what none of them has is named.
func TestSegments(t *testing.T) {
	_, p := keys(t)
	entries := written(t, 1000, "ok")
	forked := append(append([][]byte{}, entries[:299]...), written(t, 300, "internal")[299])
	first, second, third := export(t, entries[:300]), segment(t, entries[:700], 256), segment(t, entries, 512)
	for _, tt := range []struct {
		name string
		dirs []string
		bad  int64 // entry that is missing, or -1
	}{
		{"all", []string{first, second, third}, -1},
		{"any order", []string{third, first, second}, -1},
		{"one twice", []string{third, first, second, first}, -1},
		{"first two", []string{second, first}, -1},
		{"first alone", []string{first}, -1},
		{"no first", []string{second, third}, 0},
		{"no second", []string{first, third}, 300},
		{"last alone", []string{third}, 0},
	} {
		var dirs []tiles.Dir
		for _, d := range tt.dirs {
			dirs = append(dirs, dirOf(d))
		}
		r, err := tiles.Verify(p, dirs...)
		if tt.bad >= 0 {
			wantEntry(t, tt.name, err, tt.bad)
		} else if err != nil || r.Entries != r.Checkpoint.Size {
			t.Errorf("%s: %+v, %v", tt.name, r, err)
		}
	}
	named := tiles.Dir{Name: "old", FS: os.DirFS(export(t, forked))}
	_, err := tiles.Verify(p, dirOf(third), named, dirOf(second))
	wantFile(t, "fork", err, "old/checkpoint")
	same := append(append([][]byte{}, entries[:999]...), written(t, 1000, "internal")[999])
	_, err = tiles.Verify(p, tiles.Dir{Name: "a", FS: os.DirFS(export(t, same))}, tiles.Dir{Name: "b", FS: os.DirFS(third)}, dirOf(second))
	wantFile(t, "fork of the same size", err, "a/checkpoint")
	// A segment grows like a whole log.
	write(t, second, func() tiles.Source {
		src := source(t, entries)
		src.First = 256
		src.LeafHashes = func(int64) iter.Seq2[tlog.Hash, error] { panic("no hash is needed") }
		return src
	}())
	if r, err := tiles.Verify(p, dirOf(first), dirOf(second)); err != nil || r.Entries != 1000 {
		t.Errorf("grown: %+v, %v", r, err)
	}
}
