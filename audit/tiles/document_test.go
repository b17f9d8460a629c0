package tiles_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/audit/tiles"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// document is the directory that VERIFY.md asks for.
type document struct {
	t      *testing.T
	dir    string
	script string
}

// newDocument lays out a log of n entries, signed with an Ed25519 or ECDSA key, and
// the proof of one of them.
func newDocument(t *testing.T, n int, seq int64, ec bool) *document {
	t.Helper()
	text, err := os.ReadFile("../VERIFY.md")
	if err != nil {
		t.Fatal(err)
	}
	d := &document{t: t, dir: t.TempDir()}
	for i, block := range strings.Split(string(text), "```bash\n") {
		if i > 0 {
			block, _, _ = strings.Cut(block, "```\n")
			d.script += block
		}
	}
	signers, _ := keys(t)
	signer, vkey := signers[0], mustVkey(t, logKey.Public())
	if ec {
		signer, vkey = ecdsaSigner(t)
	}
	v, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	entries := written(t, n, "ok")
	var edge audit.Edge
	var stored []tlog.Hash
	for _, e := range entries {
		stored = append(stored, edge.Append(audit.LeafHash(e))...)
	}
	// A witness signed too, first: the reader must find the log's line.
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: edge.Size(), Root: edge.Root()}, signers[1], signer)
	if err != nil {
		t.Fatal(err)
	}
	src := source(t, entries)
	src.Checkpoint = msg
	if _, err := tiles.Write(filepath.Join(d.dir, "export"), v, src); err != nil {
		t.Fatal(err)
	}
	path, err := audit.ProveEntry(edge.Size(), seq, tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	proof := audit.Proof{Index: seq, Hashes: path, Checkpoint: msg}
	d.write("log.vkey", []byte(vkey+"\n"))
	d.write("entry.tlog-proof", proof.Format())
	d.write("entry.tlog-proof.entry", entries[seq])
	return d
}

func mustVkey(t *testing.T, public any) string {
	t.Helper()
	vkey, err := audit.VerifierKey(origin, public)
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func ecdsaSigner(t *testing.T) (note.Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewECDSASigner(origin, &key.PublicKey, func(digest []byte) ([]byte, error) {
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, mustVkey(t, &key.PublicKey)
}

func (d *document) write(name string, content []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), content, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// run runs the blocks of the document as it says.
func (d *document) run() (output string, ok bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", d.script)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		d.t.Fatalf("%v: %s", err, out)
	}
	return string(out), err == nil
}

// TestDocument runs exactly the commands of VERIFY.md on exports of several sizes.
func TestDocument(t *testing.T) {
	for _, tt := range []struct {
		n   int
		seq int64
		ec  bool
	}{{1, 0, true}, {7, 6, false}, {258, 256, false}} {
		out, ok := newDocument(t, tt.n, tt.seq, tt.ec).run()
		if !ok || strings.Count(out, "verified: ") != 2 {
			t.Errorf("%+v: %s", tt, out)
		}
	}
}

// TestDocumentFails flips a bit that means something in each file that the
// document reads, and puts another key in place: each is found, and said.
func TestDocumentFails(t *testing.T) {
	for _, tt := range []struct {
		name, file, near string // the bit is in the first character of near
	}{
		{"checkpoint: size", "export/checkpoint", "7\n"},
		{"checkpoint: signature", "export/checkpoint", "NkeP4"},
		{"entry: word", "export/tile/entries/000.p/7", "ok\n"},
		{"entry: length", "export/tile/entries/000.p/7", "cardkms"},
		{"proof: index", "entry.tlog-proof", "5\n"},
		{"proof: hash", "entry.tlog-proof", "\n\nkms"},
		{"proven entry", "entry.tlog-proof.entry", "ok\n"},
		{"other key", "log.vkey", "+36478fe2+"},
		{"other key's id", "log.vkey", "36478fe2+"},
	} {
		d := newDocument(t, 7, 5, false)
		b, err := os.ReadFile(filepath.Join(d.dir, tt.file))
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte(tt.near))
		switch tt.name {
		case "entry: length":
			at--
		case "proof: hash":
			at -= 10
		case "other key":
			at += 20
		}
		if at < 0 {
			t.Errorf("%s: no %q in %s", tt.name, tt.near, b)
			continue
		}
		b[at] ^= 1
		d.write(tt.file, b)
		if out, ok := d.run(); ok || !strings.Contains("\n"+out, "\nNOT ") {
			t.Errorf("%s: not found, or nothing said: %s", tt.name, out)
		}
	}
}
