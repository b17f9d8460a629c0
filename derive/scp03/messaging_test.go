package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// levels are those of [AmdD], Table 7-6.
var levels = []scp03.Level{0x00, 0x01, 0x03, 0x11, 0x13, 0x33}

// TestRoom states how many bytes fit at each level and mode, and that one more
// is refused in short form without a change of state.
func TestRoom(t *testing.T) {
	for _, c := range []struct {
		level        scp03.Level
		mode         scp03.Mode
		short, large int
	}{
		{0x00, scp03.S8, 255, 65535},
		{0x01, scp03.S8, 247, 65527},
		{0x03, scp03.S8, 239, 65519},
		{0x33, scp03.S8, 239, 65519},
		{0x01, scp03.S16, 239, 65519},
		{0x03, scp03.S16, 223, 65503},
		{0x13, scp03.S16, 223, 65503},
	} {
		_, m := session(t, c.level, c.mode)
		if got := m.DataMax(apdu.ShortDataMax); got != c.short {
			t.Errorf("level %02X, S%d: room for %d in short form, want %d", c.level, 8*c.mode, got, c.short)
		}
		if got := m.DataMax(apdu.ExtendedDataMax); got != c.large {
			t.Errorf("level %02X, S%d: room for %d in extended form, want %d", c.level, 8*c.mode, got, c.large)
		}
		if c.level == 0 {
			continue
		}
		start := scp03.State{Chaining: [16]byte{1, 2, 3}, Counter: 7}
		m.ShortOnly = true
		full, _ := wrap(t, m, start, apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, c.short)})
		if len(full.Bytes()) > 4+1+255 || full.Extended {
			t.Errorf("level %02X: a full command has %d bytes", c.level, len(full.Bytes()))
		}
		_, s, err := m.Wrap(ctx, start, apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, c.short+1)})
		if fault.CodeOf(err) != fault.InvalidInput || s != start {
			t.Errorf("level %02X: one byte too many: %v, state %v", c.level, err, s)
		}
		m.ShortOnly = false
		long, _ := wrap(t, m, start, apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, c.short+1)})
		if b := long.Bytes(); !long.Extended || b[4] != 0 || int(b[5])<<8|int(b[6]) != len(b)-7 {
			t.Errorf("level %02X: a longer command is not in extended form: % X", c.level, long.Bytes()[:8])
		}
		_, s, err = m.Wrap(ctx, start, apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, c.large+1)})
		if fault.CodeOf(err) != fault.InvalidInput || s != start {
			t.Errorf("level %02X: more than the extended form holds: %v", c.level, err)
		}
		fits, _ := wrap(t, m, start, apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, c.large), Ne: 65536})
		_ = fits.Bytes() // must not panic
	}
}

// TestClass: a CLA that is secured already or belongs to a further logical
// channel cannot be marked and is refused; the basic channels 0 to 3 are marked.
func TestClass(t *testing.T) {
	_, m := session(t, 0x01, scp03.S8)
	for cla := range 256 {
		c := byte(cla)
		w, s, err := m.Wrap(ctx, scp03.State{}, apdu.Command{CLA: c, INS: 0xF2})
		if ok := c&0x4C == 0; ok != (err == nil) {
			t.Errorf("CLA %02X: %v", c, err)
		} else if ok && w.CLA != c|0x04 {
			t.Errorf("CLA %02X becomes %02X", c, w.CLA)
		} else if !ok && (fault.CodeOf(err) != fault.InvalidInput || s != scp03.State{}) {
			t.Errorf("CLA %02X: %v, state %v", c, err, s)
		}
	}
	// The logical channel is under no MAC: [AmdD], Section 6.2.4.
	a, _ := wrap(t, m, scp03.State{}, apdu.Command{CLA: 0x80, INS: 0xF2})
	b, _ := wrap(t, m, scp03.State{}, apdu.Command{CLA: 0x83, INS: 0xF2})
	if !bytes.Equal(a.Data, b.Data) {
		t.Error("the C-MAC depends on the logical channel")
	}
}

// TestOptions wraps the same three commands, the second without data, with every
// combination of PadEmpty and SkipEmpty.
func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name     string
		options  scp03.Options
		counters [3]uint32
		empty    int // data bytes of the wrapped empty command
	}{
		{"most cards", scp03.Options{}, [3]uint32{1, 2, 3}, 8},
		{"PadEmpty", scp03.Options{PadEmpty: true}, [3]uint32{1, 2, 3}, 24},
		{"SkipEmpty", scp03.Options{SkipEmpty: true}, [3]uint32{1, 1, 2}, 8},
		{"both", scp03.Options{PadEmpty: true, SkipEmpty: true}, [3]uint32{1, 1, 2}, 24},
	} {
		tok, m := session(t, 0x03, scp03.S8)
		m.Options = c.options
		var s scp03.State
		for i, data := range [][]byte{{1, 2, 3}, nil, {1, 2, 3}} {
			var w apdu.Command
			w, s = wrap(t, m, s, apdu.Command{CLA: 0x80, INS: 0xE2, Data: data})
			if s.Counter != c.counters[i] {
				t.Errorf("%s: command %d leaves the counter %d, want %d", c.name, i+1, s.Counter, c.counters[i])
			}
			if data == nil && len(w.Data) != c.empty {
				t.Errorf("%s: the empty command has %d data bytes, want %d", c.name, len(w.Data), c.empty)
			}
			if len(w.Data) < 16 {
				continue
			}
			// What a card does: decrypt with ICV = AES(counter) and unpad.
			icv, _ := tok.Encrypt(ctx, m.Keys.ENC, append(make([]byte, 15), byte(s.Counter)))
			plain, _ := tok.Decrypt(ctx, m.Keys.ENC, icv, w.Data[:16])
			if want := append(bytes.Clone(data), 0x80); !bytes.HasPrefix(plain, want) || len(bytes.Trim(plain[len(want):], "\x00")) > 0 {
				t.Errorf("%s: command %d decrypts to % X", c.name, i+1, plain)
			}
		}
	}
}

// TestCounter: the counter of a session does not start over at 2^8 or 2^16.
func TestCounter(t *testing.T) {
	_, m := session(t, 0x03, scp03.S8)
	seen := map[string]bool{}
	for _, n := range []uint32{0, 0xFE, 0xFF, 0xFFFE, 0xFFFF, 0xFFFFFF} {
		w, s := wrap(t, m, scp03.State{Counter: n}, apdu.Command{CLA: 0x80, INS: 0xE2, Data: []byte{1}})
		if s.Counter != n+1 || seen[string(w.Data[:16])] {
			t.Errorf("after %d commands the counter is %d, or a ciphertext is repeated", n, s.Counter)
		}
		seen[string(w.Data[:16])] = true
	}
}

// TestPlain: level 00 passes everything through and uses the token for nothing.
func TestPlain(t *testing.T) {
	tok, m := session(t, 0x00, scp03.S8)
	c := apdu.Command{CLA: 0x84, INS: 0xE2, Data: make([]byte, 255)}
	w, s, err := m.Wrap(ctx, scp03.State{Counter: 5}, c)
	if err != nil || !bytes.Equal(w.Bytes(), c.Bytes()) || s.Counter != 5 {
		t.Errorf("level 00 changes a command: %v", err)
	}
	r, err := m.Unwrap(ctx, s, apdu.Response{Data: []byte{1}, SW: apdu.Success})
	if err != nil || !bytes.Equal(r.Data, []byte{1}) || tok.Calls != 0 {
		t.Errorf("level 00 changes a response: %v", err)
	}
}

// TestInputUntouched: wrapping never writes into the caller's slices.
func TestInputUntouched(t *testing.T) {
	for _, l := range levels {
		_, m := session(t, l, scp03.S8)
		data := append(make([]byte, 0, 64), 1, 2, 3)
		wrap(t, m, scp03.State{}, apdu.Command{CLA: 0x80, INS: 0xE2, Data: data})
		if all := data[:64]; !bytes.Equal(all[:4], []byte{1, 2, 3, 0}) {
			t.Errorf("level %02X writes % X into the caller's slice", l, all[:16])
		}
	}
}
