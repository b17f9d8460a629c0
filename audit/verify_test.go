package audit_test

import (
	"errors"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
)

// written returns the encodings of n entries, one second apart.
func written(t testing.TB, n int) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	for i := range out {
		e := worked()
		e.Sequence, e.Time = int64(i), e.Time.Add(time.Duration(i)*time.Second)
		out[i] = mustEncode(t, e)
	}
	return out
}

func leafHashes(entries [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(entries))
	for i, e := range entries {
		out[i] = audit.LeafHash(e)
	}
	return out
}

func seal(t testing.TB, entries [][]byte) []byte {
	t.Helper()
	var edge audit.Edge
	for _, h := range leafHashes(entries) {
		edge.Append(h)
	}
	s, _ := newEd25519(t)
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: edge.Size(), Root: edge.Root()}, s)
	if err != nil {
		t.Fatal(err)
	}
	return msg
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

func verify(t testing.TB, checkpoint []byte, entries [][]byte, claims []tlog.Hash) (audit.Report, error) {
	t.Helper()
	_, v := newEd25519(t)
	log := audit.Log{Origin: origin, Entries: each(entries)}
	if claims != nil {
		log.LeafHashes = each(claims)
	}
	return audit.VerifyLog(checkpoint, v, log)
}

func TestVerifyLog(t *testing.T) {
	for n := range 20 {
		entries := written(t, n)
		for _, claims := range [][]tlog.Hash{nil, leafHashes(entries)} {
			report, err := verify(t, seal(t, entries), entries, claims)
			if err != nil || report.Entries != int64(n) || report.ClockSteps != 0 {
				t.Errorf("%d entries: %+v, %v", n, report, err)
			}
		}
	}
}

// TestVerifyNamesTheBadEntry changes a log of 13 entries in every way, and wants
// the first bad entry named where leaf hashes are at hand.
func TestVerifyNamesTheBadEntry(t *testing.T) {
	other := worked()
	other.Sequence, other.Outcome = 6, "internal"
	edited := mustEncode(t, other)
	for _, tt := range []struct {
		name   string
		change func(e [][]byte) [][]byte
		bad    int64 // with leaf hashes
		alone  int64 // without; -1 means that only the root tells
	}{
		{"edited", func(e [][]byte) [][]byte { e[6] = edited; return e }, 6, -1},
		{"garbage", func(e [][]byte) [][]byte { e[6] = []byte("x"); return e }, 6, 6},
		{"removed", func(e [][]byte) [][]byte { return append(e[:6], e[7:]...) }, 6, 6},
		{"repeated", func(e [][]byte) [][]byte { return append(e[:7], e[6:]...) }, 7, 7},
		{"swapped", func(e [][]byte) [][]byte { e[6], e[7] = e[7], e[6]; return e }, 6, 6},
		{"tail cut", func(e [][]byte) [][]byte { return e[:9] }, 9, 9},
		{"all cut", func(e [][]byte) [][]byte { return nil }, 0, 0},
		{"appended", func(e [][]byte) [][]byte { return written(t, 14) }, 13, 13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good := written(t, 13)
			checkpoint, claims := seal(t, good), leafHashes(good)
			wantBad(t, tt.bad, checkpoint, tt.change(written(t, 13)), claims)
			wantBad(t, tt.alone, checkpoint, tt.change(written(t, 13)), nil)
			wantBad(t, tt.alone, checkpoint, tt.change(written(t, 13)), claims[:3]) // too few are worth nothing
		})
	}
}

func wantBad(t *testing.T, want int64, checkpoint []byte, entries [][]byte, claims []tlog.Hash) {
	t.Helper()
	_, err := verify(t, checkpoint, entries, claims)
	var named *audit.EntryError
	switch {
	case want < 0 && !errors.Is(err, audit.ErrRoot):
		t.Errorf("got %v, want ErrRoot", err)
	case want >= 0 && (!errors.As(err, &named) || named.Sequence != want):
		t.Errorf("got %v, want entry %d named", err, want)
	}
}

// TestVerifyFalseClaims: leaf hashes that the checkpoint does not prove name
// nothing but themselves.
func TestVerifyFalseClaims(t *testing.T) {
	good := written(t, 13)
	claims := leafHashes(good)
	claims[4][0] ^= 1
	wantBad(t, 4, seal(t, good), written(t, 13), claims)
}

// TestEveryFlippedBitIsFound flips a sample of the bits of a log of 200 entries.
func TestEveryFlippedBitIsFound(t *testing.T) {
	entries := written(t, 200)
	checkpoint, claims := seal(t, entries), leafHashes(entries)
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := r.IntN(len(entries))
		bit := r.IntN(8 * len(entries[n]))
		entries[n][bit/8] ^= 1 << (bit % 8)
		wantBad(t, int64(n), checkpoint, entries, claims)
		if _, err := verify(t, checkpoint, entries, nil); err == nil {
			t.Errorf("bit %d of entry %d: not found without leaf hashes", bit, n)
		}
		entries[n][bit/8] ^= 1 << (bit % 8)
	}
}

func TestVerifyReportsClockSteps(t *testing.T) {
	entries := written(t, 5)
	e := worked()
	e.Sequence, e.Time = 3, e.Time.Add(-time.Hour)
	entries[3] = mustEncode(t, e)
	report, err := verify(t, seal(t, entries), entries, nil)
	if err != nil || report.ClockSteps != 1 || report.FirstClockStep != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestVerifyPassesReadErrors(t *testing.T) {
	entries := written(t, 3)
	_, v := newEd25519(t)
	fails := func(yield func([]byte, error) bool) { yield(nil, errToken) }
	_, err := audit.VerifyLog(seal(t, entries), v, audit.Log{Origin: origin, Entries: fails})
	if !errors.Is(err, errToken) {
		t.Errorf("entries: %v", err)
	}
	noHash := func(yield func(tlog.Hash, error) bool) { yield(tlog.Hash{}, errToken) }
	for _, list := range [][][]byte{entries, nil} {
		_, err = audit.VerifyLog(seal(t, entries), v, audit.Log{Origin: origin, Entries: each(list), LeafHashes: noHash})
		if !errors.Is(err, errToken) {
			t.Errorf("leaf hashes: %v", err)
		}
	}
	if _, err := verify(t, []byte("x"), entries, nil); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("checkpoint: %v", err)
	}
}

func BenchmarkVerifyLog(b *testing.B) {
	entries := written(b, 1000)
	checkpoint := seal(b, entries)
	for b.Loop() {
		if _, err := verify(b, checkpoint, entries, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkEncode(b *testing.B) {
	e := worked()
	for b.Loop() {
		if _, err := e.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
