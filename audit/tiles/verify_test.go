package tiles_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/audit/tiles"
)

func TestVerify(t *testing.T) {
	_, p := keys(t)
	for _, n := range []int{0, 1, 255, 256, 257, 600} {
		entries := written(t, n, "ok")
		dir := dirOf(export(t, entries))
		r, err := tiles.Verify(p, dir)
		if err != nil || r.Entries != int64(n) || r.Checkpoint.Size != int64(n) || r.ClockSteps != 0 || len(r.Cosigned) != 1 || !r.Cosigned[0].Equal(start) {
			t.Fatalf("%d entries: %+v, %v", n, r, err)
		}
		if n > 0 && (!r.First.Equal(start) || !r.Last.Equal(start.Add(time.Duration(n-1)*time.Second))) {
			t.Errorf("%d entries: from %v to %v", n, r.First, r.Last)
		}
		// The verifier that knows no tiles agrees.
		c, msg, err := dir.Checkpoint(p.Log)
		if err != nil {
			t.Fatal(err)
		}
		other, err := audit.VerifyLog(msg, p.Log, dir.Log(origin, c.Size))
		if err != nil || fmt.Sprint(other) != fmt.Sprint(r.Report) {
			t.Errorf("%d entries: VerifyLog says %+v, %v", n, other, err)
		}
	}
}

func TestVerifyFrom(t *testing.T) {
	_, p := keys(t)
	m := load(t, export(t, written(t, 600, "ok")))
	delete(m, "tile/entries/000")
	_, err := tiles.Verify(p, m.dir())
	wantEntry(t, "first bundle gone", err, 0)
	for _, from := range []int64{256, 300, 600} {
		p.From = from
		r, err := tiles.Verify(p, m.dir())
		if err != nil || r.Entries != 600-from || r.From != from {
			t.Errorf("from %d: %+v, %v", from, r, err)
		}
	}
	p.From = 255
	_, err = tiles.Verify(p, m.dir())
	wantEntry(t, "from 255", err, 255)
	p.From = 601
	if _, err := tiles.Verify(p, m.dir()); err == nil {
		t.Error("from past the end")
	}
}

func TestVerifyRefusesNothing(t *testing.T) {
	_, p := keys(t)
	if _, err := tiles.Verify(p); err == nil {
		t.Error("no directory verifies")
	}
	if _, err := tiles.Verify(tiles.Policy{}, memory{}.dir()); err == nil {
		t.Error("no key verifies")
	}
	_, err := tiles.Verify(p, memory{}.dir())
	wantFile(t, "empty directory", err, "checkpoint")
}

// TestVerifyOtherKeys: a log or a witness that the auditor did not name counts
// for nothing.
func TestVerifyOtherKeys(t *testing.T) {
	_, p := keys(t)
	m := load(t, export(t, written(t, 3, "ok")))
	stranger := tiles.Policy{Log: p.Witnesses[0]}
	if _, err := tiles.Verify(stranger, m.dir()); !errors.Is(err, audit.ErrKey) {
		t.Errorf("a witness's key as the log's: %v", err)
	}
	vkey, err := audit.CosignerKey("other.example.com", logKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	other, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	p.Witnesses = append(p.Witnesses, other)
	if _, err := tiles.Verify(p, m.dir()); !errors.Is(err, audit.ErrCosignature) {
		t.Errorf("a witness that did not cosign: %v", err)
	}
}

func wantEntry(t *testing.T, name string, err error, seq int64) {
	t.Helper()
	var e *audit.EntryError
	if !errors.As(err, &e) || e.Sequence != seq {
		t.Errorf("%s: %v, want entry %d named", name, err, seq)
	}
}

func wantFile(t *testing.T, name string, err error, path string) {
	t.Helper()
	var f *tiles.FileError
	if !errors.As(err, &f) || f.Path != path {
		t.Errorf("%s: %v, want %s named", name, err, path)
	}
}

// BenchmarkVerify verifies a log in memory; the figure is for one processor.
func BenchmarkVerify(b *testing.B) {
	_, p := keys(b)
	const n = 20000
	m := load(b, export(b, written(b, n, "ok")))
	for b.Loop() {
		if _, err := tiles.Verify(p, m.dir()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "entries/s")
}
