package audit_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"cardkms/audit"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	formats "github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// proven returns the entries of a log of this size and the proof of one of them,
// with a cosigned checkpoint.
func proven(t testing.TB, size int, seq int64) ([][]byte, audit.Proof) {
	t.Helper()
	entries := written(t, size)
	var edge audit.Edge
	var hashes stored
	for _, h := range leafHashes(entries) {
		hashes = append(hashes, edge.Append(h)...)
	}
	log, _ := newEd25519(t)
	w, _, _ := newWitness(t)
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: edge.Size(), Root: edge.Root()}, log, w)
	if err != nil {
		t.Fatal(err)
	}
	path, err := audit.ProveEntry(edge.Size(), seq, hashes)
	if err != nil {
		t.Fatal(err)
	}
	return entries, audit.Proof{Index: seq, Hashes: path, Checkpoint: msg}
}

func TestProof(t *testing.T) {
	_, log := newEd25519(t)
	_, w, _ := newWitness(t)
	for size := 1; size < 9; size++ {
		for seq := range int64(size) {
			entries, p := proven(t, size, seq)
			got, err := audit.ParseProof(p.Format())
			if diff := cmp.Diff(p, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Fatalf("%d of %d: %v %s", seq, size, err, diff)
			}
			e, c, err := got.Check(entries[seq], origin, log, w)
			if err != nil || e.Sequence != seq || c.Size != int64(size) {
				t.Errorf("%d of %d: %v", seq, size, err)
			}
			if _, _, err := got.Check(entries[(seq+1)%int64(size)], origin, log, w); size > 1 && !errors.Is(err, audit.ErrProof) {
				t.Errorf("%d of %d: another entry: %v", seq, size, err)
			}
		}
	}
}

// TestProofsAgree has transparency-dev/formats read our file, and us read theirs.
func TestProofsAgree(t *testing.T) {
	for _, extra := range [][]byte{nil, []byte("extra")} {
		_, p := proven(t, 7, 3)
		p.Extra = extra
		var other formats.TLogProof
		if err := other.Unmarshal(p.Format()); err != nil {
			t.Fatal(err)
		}
		if other.Index != 3 || len(other.Hashes) != len(p.Hashes) || !bytes.Equal(other.Checkpoint, p.Checkpoint) || !bytes.Equal(other.ExtraData, extra) {
			t.Errorf("they read %+v", other)
		}
		got, err := audit.ParseProof(other.Marshal())
		if diff := cmp.Diff(p, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
}

// TestEveryFlippedBitOfAProofIsFound flips every bit of a proof and of its entry.
func TestEveryFlippedBitOfAProofIsFound(t *testing.T) {
	_, log := newEd25519(t)
	_, w, _ := newWitness(t)
	entries, p := proven(t, 7, 3)
	text, entry := p.Format(), entries[3]
	check := func() error {
		got, err := audit.ParseProof(text)
		if err != nil {
			return err
		}
		_, _, err = got.Check(entry, origin, log, w)
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"proof": text, "entry": entry} {
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if check() == nil {
				t.Errorf("%s: bit %d", name, bit)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestParseProofRefuses(t *testing.T) {
	_, p := proven(t, 7, 3)
	p.Extra = []byte("x")
	good := string(p.Format())
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, text := range map[string]string{
		"empty": "", "other version": replace("@v1", "@v2"), "no index": replace("index 3\n", ""),
		"leading zero": replace("index 3", "index 03"), "negative": replace("index 3", "index -3"),
		"overflow": replace("index 3", "index 9223372036854775808"), "empty extra": replace("extra eA==", "extra "),
		"extra twice": replace("extra eA==\n", "extra eA==\nextra eA==\n"), "extra later": replace("extra eA==\nindex 3\n", "index 3\nextra eA==\n"),
		"spare bits": replace("extra eA==", "extra eB=="), "return": replace("index 3\n", "index 3\r\n"),
		"short hash": replace("index 3\n", "index 3\nAAAA\n"), "no checkpoint": good[:strings.Index(good, "\n\n")+2],
		"64 hashes": replace("index 3\n", "index 3\n"+strings.Repeat(strings.Repeat("A", 43)+"=\n", 62)),
		"only head": "c2sp.org/tlog-proof@v1\n\nx",
	} {
		if text == good {
			t.Errorf("%s: the text was not changed", name)
		}
		if _, err := audit.ParseProof([]byte(text)); !errors.Is(err, audit.ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProofCheckRefuses(t *testing.T) {
	_, log := newEd25519(t)
	_, stranger := newECDSA(t)
	_, w, _ := newWitness(t)
	entries, p := proven(t, 7, 3)
	for _, tt := range []struct {
		name   string
		origin string
		log    note.Verifier
		change func(*audit.Proof)
		want   error
	}{
		{"other key", origin, stranger, func(*audit.Proof) {}, audit.ErrSignature},
		{"other log", "other", log, func(*audit.Proof) {}, audit.ErrCheckpoint},
		{"other index", origin, log, func(p *audit.Proof) { p.Index = 2 }, audit.ErrProof},
		{"index past the end", origin, log, func(p *audit.Proof) { p.Index = 7 }, audit.ErrProof},
		{"negative index", origin, log, func(p *audit.Proof) { p.Index = -1 }, audit.ErrProof},
		{"hash missing", origin, log, func(p *audit.Proof) { p.Hashes = p.Hashes[1:] }, audit.ErrProof},
		{"hash more", origin, log, func(p *audit.Proof) { p.Hashes = append(p.Hashes[:3:3], tlog.Hash{}) }, audit.ErrProof},
		{"not cosigned", origin, log, func(p *audit.Proof) { p.Checkpoint = seal(t, entries) }, audit.ErrCosignature},
	} {
		changed := p
		tt.change(&changed)
		if _, _, err := changed.Check(entries[3], tt.origin, tt.log, w); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestProofOfAMisplacedEntry: a log that signed an entry under another sequence
// proves nothing.
func TestProofOfAMisplacedEntry(t *testing.T) {
	s, log := newEd25519(t)
	entry := written(t, 6)[5]
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: 1, Root: audit.LeafHash(entry)}, s)
	if err != nil {
		t.Fatal(err)
	}
	p := audit.Proof{Checkpoint: msg}
	var named *audit.EntryError
	if _, _, err := p.Check(entry, origin, log); !errors.As(err, &named) {
		t.Errorf("%v", err)
	}
}

// FuzzParseProof: what is accepted is what Format writes, byte for byte.
func FuzzParseProof(f *testing.F) {
	_, p := proven(f, 7, 3)
	f.Add(p.Format())
	p.Extra = []byte("extra")
	f.Add(p.Format())
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := audit.ParseProof(text)
		if err != nil {
			return
		}
		if again := p.Format(); !bytes.Equal(again, text) {
			t.Errorf("parsed %q, written %q", text, again)
		}
	})
}
