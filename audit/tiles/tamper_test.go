package tiles_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cardkms/audit"
	"cardkms/audit/tiles"
)

// TestTamper flips bits of every file of an export of 1,000 entries, one at a
// time, and wants each found and named: in a bundle the entry, else the file. The
// verifier is the one that auditors run, over the whole export each time. By
// default every 211th bit is flipped; CARDKMS_TAMPER_STRIDE=1 flips all.
func TestTamper(t *testing.T) {
	stride := 211
	if s := os.Getenv("CARDKMS_TAMPER_STRIDE"); s != "" {
		var err error
		if stride, err = strconv.Atoi(s); err != nil || stride < 1 {
			t.Fatalf("CARDKMS_TAMPER_STRIDE=%s", s)
		}
	}
	_, p := keys(t)
	m := load(t, export(t, written(t, 1000, "ok")))
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // short-lived buffers, many of them
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	flips := make([]int, workers)
	for i := range workers {
		wg.Go(func() { flips[i] = flipBits(t, p, m.clone(), i*stride, workers*stride) })
	}
	wg.Wait()
	total, bits := 0, 0
	for _, n := range flips {
		total += n
	}
	for _, b := range m {
		bits += 8 * len(b)
	}
	t.Logf("%d of %d bits flipped in %d files, each found and named", total, bits, len(m))
}

// flipBits flips every step-th bit from the first on, counted over all files.
func flipBits(t *testing.T, p tiles.Policy, m memory, bit, step int) (flips int) {
	for _, name := range m.names() {
		b := m[name]
		for ; bit < 8*len(b); bit += step {
			b[bit/8] ^= 1 << (bit % 8)
			_, err := tiles.Verify(p, m.dir())
			b[bit/8] ^= 1 << (bit % 8)
			if !names(err, name, b, bit/8) {
				t.Errorf("%s: bit %d: %v", name, bit, err)
				return flips
			}
			flips++
		}
		bit -= 8 * len(b)
	}
	return flips
}

// names reports whether the error names the file that was changed at this byte,
// and where it is a bundle, the entry.
func names(err error, name string, content []byte, at int) bool {
	var file *tiles.FileError
	if !errors.As(err, &file) || file.Path != name {
		return false
	}
	_, number, isBundle := strings.Cut(name, "tile/entries/")
	if !isBundle {
		return true
	}
	bundle, err1 := strconv.Atoi(number[:3])
	seq := int64(bundle) * 256
	for next := 0; ; seq++ {
		if next += 2 + int(binary.BigEndian.Uint16(content[next:])); at < next {
			break
		}
	}
	var entry *audit.EntryError
	return err1 == nil && errors.As(err, &entry) && entry.Sequence == seq
}

// TestTamperFiles changes whole files: every file, every way.
func TestTamperFiles(t *testing.T) {
	_, p := keys(t)
	m := load(t, export(t, written(t, 1000, "ok")))
	for _, name := range m.names() {
		for how, change := range map[string]func(memory){
			"removed":       func(m memory) { delete(m, name) },
			"empty":         func(m memory) { m[name] = nil },
			"one byte less": func(m memory) { m[name] = m[name][:len(m[name])-1] },
			"one byte more": func(m memory) { m[name] = append(m[name], 0) },
			"half":          func(m memory) { m[name] = m[name][:len(m[name])/2] },
			"doubled":       func(m memory) { m[name] = append(m[name], m[name]...) },
			"renamed":       func(m memory) { m[name+"x"] = m[name]; delete(m, name) },
			"copied":        func(m memory) { m["tile/9/000"] = m[name] },
			"copied below":  func(m memory) { m["tile/0/004"] = m[name] },
			"kept old":      func(m memory) { m["tile/0/003.p/231"] = m[name] },
		} {
			changed := m.clone()
			change(changed)
			if _, err := tiles.Verify(p, changed.dir()); err == nil {
				t.Errorf("%s %s: not found", name, how)
			}
		}
		for _, other := range m.names() {
			if name == other {
				continue
			}
			swapped := m.clone()
			swapped[name], swapped[other] = swapped[other], swapped[name]
			if _, err := tiles.Verify(p, swapped.dir()); err == nil {
				t.Errorf("%s and %s swapped: not found", name, other)
			}
		}
	}
}

// TestTamperEntries changes the entries inside a bundle and wants the first that
// is wrong named.
func TestTamperEntries(t *testing.T) {
	_, p := keys(t)
	good := written(t, 1000, "ok")
	m := load(t, export(t, good))
	other := written(t, 1000, "internal")
	for _, tt := range []struct {
		name   string
		change func(e [][]byte) [][]byte // of bundle 1: entries 256 to 511
		bad    int64                     // -1 where only the file is named
	}{
		{"edited", func(e [][]byte) [][]byte { e[100] = other[356]; return e }, 356},
		{"removed", func(e [][]byte) [][]byte { return append(e[:100], e[101:]...) }, 356},
		{"repeated", func(e [][]byte) [][]byte { return append(e[:101], e[100:255]...) }, 357},
		{"swapped", func(e [][]byte) [][]byte { e[7], e[8] = e[8], e[7]; return e }, 263},
		{"reversed", func(e [][]byte) [][]byte {
			for i := range 128 {
				e[i], e[255-i] = e[255-i], e[i]
			}
			return e
		}, 256},
		{"cut", func(e [][]byte) [][]byte { return e[:200] }, 456},
		{"one more", func(e [][]byte) [][]byte { return append(e, good[512]) }, -1},
		{"all others", func([][]byte) [][]byte { return other[256:512] }, 256},
	} {
		changed := m.clone()
		changed["tile/entries/001"] = bundle(tt.change(append([][]byte{}, good[256:512]...)))
		_, err := tiles.Verify(p, changed.dir())
		wantFile(t, tt.name, err, "tile/entries/001")
		if tt.bad >= 0 {
			wantEntry(t, tt.name, err, tt.bad)
		}
	}
}

func bundle(entries [][]byte) []byte {
	var b []byte
	for _, e := range entries {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b
}

// TestTamperConsistently: somebody who changes an entry and every hash over it,
// but cannot sign, is found; and so is one who puts another log's files in place.
func TestTamperConsistently(t *testing.T) {
	_, p := keys(t)
	good := load(t, export(t, written(t, 1000, "ok")))
	entries := written(t, 1000, "ok")
	entries[700] = written(t, 1000, "internal")[700]
	forged := load(t, export(t, entries))
	checkpoint := good["checkpoint"]

	all := forged.clone()
	all["checkpoint"] = checkpoint
	if _, err := tiles.Verify(p, all.dir()); !errors.Is(err, audit.ErrRoot) {
		t.Errorf("every file but the checkpoint: %v", err)
	}
	below := good.clone()
	below["tile/0/002"], below["tile/entries/002"] = forged["tile/0/002"], forged["tile/entries/002"]
	_, err := tiles.Verify(p, below.dir())
	wantFile(t, "entry and leaf hash", err, "tile/0/002")
	only := good.clone()
	only["tile/0/002"] = forged["tile/0/002"]
	_, err = tiles.Verify(p, only.dir())
	wantFile(t, "leaf hash", err, "tile/0/002")
	without := only.clone()
	delete(without, "tile/entries/002")
	_, err = tiles.Verify(p, without.dir())
	wantFile(t, "leaf hash, and no entries to tell", err, "tile/0/002")
	_, err = tiles.Verify(p, tiles.Dir{Name: "good", FS: good}, tiles.Dir{Name: "forged", FS: forged})
	wantFile(t, "two histories, both signed", err, "good/checkpoint")
}

// TestTamperOlderCheckpoint: an older, valid checkpoint over the same files is
// not the whole log, and files that it does not cover are named.
func TestTamperOlderCheckpoint(t *testing.T) {
	_, p := keys(t)
	m := load(t, export(t, written(t, 1000, "ok")))
	m["checkpoint"] = bytes.Clone(source(t, written(t, 999, "ok")).Checkpoint)
	var file *tiles.FileError
	if _, err := tiles.Verify(p, m.dir()); !errors.As(err, &file) {
		t.Errorf("%v", err)
	}
}
