package cardsim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// torn runs f and reports whether the power was cut in it.
func torn(f func()) bool { return errors.Is((&Card{}).guarded(f), ErrTorn) }

// TestTears: what each tear mode leaves of a byte, a programmed page and an erased page.
func TestTears(t *testing.T) {
	for _, v := range []struct {
		tear               Tear
		byte, prog, erased string
		random             bool
	}{
		{TearLost, "F0", "FFFFFFFF", "12345678", false},
		{TearDone, "0A", "12345678", "FFFFFFFF", false},
		{TearHalf, "FA", "1234FFFF", "FFFF5678", false},
		{TearGarbage, "", "", "", true},
	} {
		b := &NVM{data: []byte{0xF0, 0x77}}
		b.CutAt(1, v.tear)
		if !torn(func() { b.rewrite(0, []byte{0x0A, 0x00}) }) || b.data[1] != 0x77 || b.Writes() != 1 {
			t.Fatalf("tear %d: %X", v.tear, b.data)
		}
		if !v.random && !bytes.Equal(b.data[:1], unhex(t, v.byte)) {
			t.Errorf("tear %d of a byte: %X", v.tear, b.data[:1])
		}
		p := NewNVM(4)
		p.data = bytes.Repeat([]byte{0xFF}, 8)
		p.CutAt(1, v.tear)
		if !torn(func() { p.rewrite(0, unhex(t, "12345678")) }) || !v.random && !bytes.Equal(p.data[:4], unhex(t, v.prog)) {
			t.Errorf("tear %d of a programming: %X", v.tear, p.data)
		}
		copy(p.data, unhex(t, "12345678"))
		p.CutAt(1, v.tear)
		if !torn(func() { p.blank(0, 4) }) || !v.random && !bytes.Equal(p.data[:4], unhex(t, v.erased)) {
			t.Errorf("tear %d of an erasure: %X", v.tear, p.data)
		}
	}
}

// TestFlash: programming only clears bits, a blank page is not erased again, and every operation counts once.
func TestFlash(t *testing.T) {
	n := NewNVM(4)
	n.data = bytes.Repeat([]byte{0xFF}, 12)
	n.rewrite(0, []byte{1, 2, 3, 4, 5, 6})
	if n.Writes() != 2 {
		t.Errorf("%d writes for two blank pages", n.Writes())
	}
	n.rewrite(0, []byte{8})
	if n.Writes() != 4 || !bytes.Equal(n.data[:6], []byte{8, 0xFF, 0xFF, 0xFF, 5, 6}) {
		t.Errorf("%d writes, %X", n.Writes(), n.data)
	}
	n.program(4, []byte{0xFA})
	if n.data[4] != 5&0xFA {
		t.Errorf("programmed %X over 05", n.data[4])
	}
}

func TestStickBit(t *testing.T) {
	n := &NVM{data: make([]byte, 4)}
	n.StickBit(2, 7, true)
	n.rewrite(0, []byte{0xFF, 0xFF, 0x0F, 0xFF})
	if got := n.read(1, 3); !bytes.Equal(got, []byte{0xFF, 0x8F, 0xFF}) {
		t.Errorf("%X", got)
	}
	n.StickBit(2, 0, false)
	if got := n.read(2, 1); got[0] != 0x8E {
		t.Errorf("%X", got)
	}
	n.ClearFaults()
	if got := n.read(2, 1); got[0] != 0x0F {
		t.Errorf("%X", got)
	}
}

// TestRecord: at every cut of a store the record holds the value before or after.
func TestRecord(t *testing.T) {
	for _, page := range []int{0, 16} {
		r := record{slots: [2]int{0, 32}, capacity: 8}
		for write := 1; ; write++ {
			done := false
			for _, tear := range Tears {
				n := NewNVM(page)
				n.data = bytes.Repeat([]byte{0xFF}, 64)
				if _, ok := r.load(n); ok {
					t.Fatal("a blank record has a value")
				}
				for _, v := range []string{"one", "two", "three"} {
					r.store(n, []byte(v))
				}
				n.CutAt(write, tear)
				done = !torn(func() { r.store(n, []byte("fourth")) })
				got, ok := r.load(n)
				if s := string(got); !ok || s != "three" && s != "fourth" || done && s != "fourth" {
					t.Errorf("page %d write %d tear %d: %q %v", page, write, tear, got, ok)
				}
				n.ClearFaults()
				r.store(n, []byte("fifth"))
				if got, ok := r.load(n); !ok || string(got) != "fifth" {
					t.Errorf("page %d write %d tear %d, stored again: %q", page, write, tear, got)
				}
			}
			if done {
				break
			}
		}
	}
}

// TestSaveLoad: a card continues from its file; a file that was changed, or another card's, is refused.
func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.nvm")
	cfg := testConfig()
	c := newTestCard(t, cfg, 128)
	c.PowerOn()
	before := GoldenTranscript(c)
	u := newUpdater(c)
	u.chunkSize = 128
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	u.mustStore(t, p.sealChunk(image, 2), swOK)
	if err := c.NVM().Save(path); err != nil {
		t.Fatal(err)
	}
	n, err := LoadNVM(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.Status(), again.Status()); diff != "" {
		t.Error(diff)
	}
	again.PowerOn()
	if err := SameTranscript(before, GoldenTranscript(again)); err != nil {
		t.Error(err)
	}
	u.card = again
	u.mustConnect(t)
	u.deliver(t, p, image)

	other := cfg
	other.BankBytes = 4096
	if _, err := New(other, n); err == nil {
		t.Error("memory of another layout accepted")
	}
	n.blank(again.layout.keys.slots[0], keyringCapacity)
	if again.PowerOff(); again.PowerOn() != nil {
		t.Error("a card without keys has an ATR")
	} else if _, err := again.Transmit([]byte{0, 0xA4, 4, 0}); !errors.Is(err, ErrMute) {
		t.Error(err)
	}
	b, _ := os.ReadFile(path)
	b[100] ^= 1
	os.WriteFile(path, b, 0o600)
	if _, err := LoadNVM(path); err == nil {
		t.Error("changed file accepted")
	}
	os.WriteFile(path, b[:9], 0o600)
	if _, err := LoadNVM(path); err == nil {
		t.Error("short file accepted")
	}
	if _, err := LoadNVM(path + ".absent"); err == nil {
		t.Error("absent file accepted")
	}
	if err := n.Save(filepath.Join(path, "not", "a", "folder")); err == nil {
		t.Error("saved into a file")
	}
}
