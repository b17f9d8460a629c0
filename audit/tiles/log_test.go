package tiles_test

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/audit/tiles"

	"golang.org/x/mod/sumdb/note"
)

const (
	origin      = "kms.example.com/audit"
	witnessName = "witness.example.com/w1"
)

var (
	logKey     = ed25519.NewKeyFromSeed(make([]byte, 32))
	witnessKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	start      = time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC)
)

// keys are the log's and the witness's.
func keys(t testing.TB) (signers []note.Signer, p tiles.Policy) {
	t.Helper()
	log, err := audit.NewSigner(origin, logKey.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(logKey, m), nil })
	if err != nil {
		t.Fatal(err)
	}
	witness, err := audit.NewCosigner(witnessName, witnessKey, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	logVkey, err1 := audit.VerifierKey(origin, logKey.Public())
	witnessVkey, err2 := audit.CosignerKey(witnessName, witnessKey.Public().(ed25519.PublicKey))
	logVerifier, err3 := audit.NewVerifier(logVkey)
	witnessVerifier, err4 := audit.NewVerifier(witnessVkey)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		t.Fatal(err1, err2, err3, err4)
	}
	return []note.Signer{log, witness}, tiles.Policy{Log: logVerifier, Witnesses: []note.Verifier{witnessVerifier}}
}

// written returns the encodings of n entries, as short as entries can be.
func written(t testing.TB, n int, outcome string) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	for i := range out {
		e := audit.Entry{
			Sequence: int64(i), Time: start.Add(time.Duration(i) * time.Second), Actor: audit.ActorService,
			Operation: "a", Decision: audit.Allowed, Outcome: outcome,
		}
		var err error
		if out[i], err = e.Encode(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// source is a log of these entries.
func source(t testing.TB, entries [][]byte) tiles.Source {
	t.Helper()
	var edge audit.Edge
	for _, e := range entries {
		edge.Append(audit.LeafHash(e))
	}
	signers, _ := keys(t)
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: edge.Size(), Root: edge.Root()}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return tiles.Source{Checkpoint: msg, Entries: func(from int64) iter.Seq2[[]byte, error] { return each(entries[from:]) }}
}

func each[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func write(t testing.TB, dir string, src tiles.Source) {
	t.Helper()
	_, p := keys(t)
	if _, err := tiles.Write(dir, p.Log, src); err != nil {
		t.Fatal(err)
	}
}

func dirOf(dir string) tiles.Dir { return tiles.Dir{FS: os.DirFS(dir)} }

// export returns a new directory with a log of these entries.
func export(t testing.TB, entries [][]byte) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, source(t, entries))
	return dir
}

// memory is a directory in memory, so that a flip costs no system call.
type memory map[string][]byte

func load(t testing.TB, dir string) memory {
	t.Helper()
	m := memory{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		m[filepath.ToSlash(name)], err = os.ReadFile(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m memory) clone() memory {
	out := memory{}
	for name, b := range m {
		out[name] = bytes.Clone(b)
	}
	return out
}

func (m memory) dir() tiles.Dir { return tiles.Dir{FS: m} }

func (m memory) names() []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Open opens a file or a directory.
func (m memory) Open(name string) (fs.File, error) {
	b, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{Reader: bytes.NewReader(b), info: info{path.Base(name), int64(len(b)), 0}}, nil
}

// Stat finds directories too.
func (m memory) Stat(name string) (fs.FileInfo, error) {
	if b, ok := m[name]; ok {
		return info{path.Base(name), int64(len(b)), 0}, nil
	}
	for other := range m {
		if len(other) > len(name) && other[:len(name)+1] == name+"/" {
			return info{path.Base(name), 0, fs.ModeDir}, nil
		}
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// ReadDir lists a directory.
func (m memory) ReadDir(name string) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	seen := map[string]bool{}
	for other := range m {
		if len(other) <= len(name) || other[:len(name)+1] != name+"/" {
			continue
		}
		child := other[len(name)+1:]
		mode := fs.FileMode(0)
		if i := bytes.IndexByte([]byte(child), '/'); i >= 0 {
			child, mode = child[:i], fs.ModeDir
		}
		if !seen[child] {
			seen[child] = true
			list = append(list, fs.FileInfoToDirEntry(info{child, 0, mode}))
		}
	}
	return list, nil
}

type file struct {
	*bytes.Reader
	info info
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

var _ io.Reader = (*file)(nil)
