package cardsim

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestLegacyWorked replays keycard-go's recorded session: sequence counter 000D,
// pseudo-random challenge and card cryptogram of a real card.
func TestLegacyWorked(t *testing.T) {
	k, _ := hex.DecodeString("404142434445464748494a4b4c4d4e4f")
	host, _ := hex.DecodeString("f0467f908e5ca23f")
	want, _ := hex.DecodeString("0002650183039536622020" + "02000de9c62ba1c4c8e55fcb91b6654ce4")
	aid, _ := hex.DecodeString("A000000151000000")
	aes := bytes.Repeat([]byte{1}, 16)
	cfg := Config{ISD: aid, KeySets: []KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70,
		Legacy: LegacyKeys{KVN: 0x20, I: 0x55, ENC: k, MAC: k, DEK: k}}
	copy(cfg.KDD[:], want)
	c, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.layout.legacy.store(c.nvm, []byte{0x00, 0x0D})
	c.PowerOn()
	r, err := c.Transmit(command{cla: 0x80, ins: insInitializeUpdate, p1: 0x20, data: host, le: 256}.encode())
	if err != nil || !bytes.Equal(r, response(want, swOK)[:len(r)]) || len(r) != 30 {
		t.Errorf("%X, %v, want %X", r, err, want)
	}
	c.layout.legacy.store(c.nvm, []byte{0xFF, 0xFF})
	r, err = c.Transmit(command{cla: 0x80, ins: insInitializeUpdate, p1: 0x20, data: host, le: 256}.encode())
	if err != nil || !bytes.Equal(r, response(nil, swConditions)) {
		t.Errorf("at the end of the counter: %X, %v", r, err)
	}
}

// TestLegacyTear: power cut at every write of EXTERNAL AUTHENTICATE: no session is ever
// given with a counter that an earlier one had.
func TestLegacyTear(t *testing.T) {
	k := bytes.Repeat([]byte{0x42, 0x17}, 8)
	aes := bytes.Repeat([]byte{1}, 16)
	cfg := Config{ISD: bytes.Repeat([]byte{0xA0}, 8), KeySets: []KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70,
		Legacy: LegacyKeys{KVN: 0x20, I: 0x15, ENC: k, MAC: k, DEK: k}}
	for _, tear := range Tears {
		cut := 1
		for !legacyCut(t, cfg, cut, tear) {
			cut++
		}
		if cut < 20 {
			t.Errorf("only %d writes were cut", cut)
		}
	}
}

// legacyCut cuts the power at one write of the second authentication and reports
// whether the authentication was over before.
func legacyCut(t *testing.T, cfg Config, cut int, tear Tear) (whole bool) {
	t.Helper()
	c, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.PowerOn()
	if !legacyLogin(t, c) {
		t.Fatal("the first session is refused")
	}
	c.NVM().CutAt(cut, tear)
	whole = legacyLogin(t, c)
	c.PowerOff()
	c.NVM().CutAt(0, tear)
	c.PowerOn()
	before := c.legacyCounter()
	if n := before[1]; n != 1 && n != 2 || whole && n != 2 {
		t.Fatalf("cut %d leaves the counter at %d", cut, n)
	}
	if !legacyLogin(t, c) || bytes.Equal(c.legacyCounter(), before) {
		t.Fatalf("cut %d: no session afterwards, or one with an old counter", cut)
	}
	return whole
}

// legacyLogin authenticates at level 01 and reports whether the card took it.
func legacyLogin(t *testing.T, c *Card) bool {
	t.Helper()
	host := make([]byte, 8)
	if r, err := c.Transmit(command{cla: 0x80, ins: insInitializeUpdate, p1: 0x20, data: host, le: 256}.encode()); err != nil || len(r) != 30 {
		return false
	}
	l := *c.ram.pending.legacy
	ext := command{cla: 0x84, ins: insExternalAuthenticate, p1: levelCMAC, data: l.cryptogram(constHostCryptogram)}
	mac := retailMAC(l.mac, [8]byte{}, l.covered(ext))
	ext.data = append(ext.data, mac[:]...)
	r, err := c.Transmit(ext.encode())
	return err == nil && bytes.Equal(r, response(nil, swOK))
}

func TestLegacyConfig(t *testing.T) {
	k := make([]byte, 16)
	base := Config{ISD: k[:5], KeySets: []KeySet{{KVN: 0x20, ENC: k, MAC: k, DEK: k}}, I: 0x70}
	for name, l := range map[string]LegacyKeys{
		"another set's KVN": {KVN: 0x20, ENC: k, MAC: k, DEK: k},
		"short keys":        {KVN: 0x21, ENC: k[:8], MAC: k, DEK: k},
		"no DEK":            {KVN: 0x21, ENC: k, MAC: k},
	} {
		cfg := base
		cfg.Legacy = l
		if _, err := New(cfg, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
