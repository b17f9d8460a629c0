package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// TestReceived takes wrapped commands apart again, at every level and in both modes: the
// MAC verifies and leaves the state that Wrap left, and the data are what went in.
func TestReceived(t *testing.T) {
	for _, level := range levels[1:] {
		for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
			_, m := session(t, level, mode)
			m.SkipEmpty = mode == scp03.S16
			var host, card scp03.State
			for _, c := range []apdu.Command{
				{CLA: 0x80, INS: 0xE2, Data: []byte{1, 2, 3}}, {CLA: 0x81, INS: 0xCA, Ne: 256}, {CLA: 0x80, INS: 0xE2, Data: make([]byte, 300)},
			} {
				w, next := wrap(t, m, host, c)
				o, after, err := m.Received(card, w)
				if err != nil {
					t.Fatal(err)
				}
				o.Sent[len(o.Sent)-1] ^= 1
				if _, err := o.Verify(ctx, m.Token); fault.CodeOf(err) != fault.ProofFailed {
					t.Errorf("level %02X, S%d: an altered MAC: %v", byte(level), 8*mode, err)
				}
				o.Sent[len(o.Sent)-1] ^= 1
				if after.Chaining, err = o.Verify(ctx, m.Token); err != nil || after != next {
					t.Errorf("level %02X, S%d: %+v (%v), want %+v", byte(level), 8*mode, after, err, next)
				}
				plain := o.Data
				if level&scp03.CDecryption != 0 && len(o.Data) > 0 {
					plain, err = m.Plain(ctx, after, o)
				}
				if err != nil || !bytes.Equal(plain, c.Data) {
					t.Errorf("level %02X, S%d: the data are %X (%v)", byte(level), 8*mode, plain, err)
				}
				host, card = next, after
			}
		}
	}
}

// TestReceivedInClear: a command that is not secured has no MAC.
func TestReceivedInClear(t *testing.T) {
	_, m := session(t, 0x01, scp03.S8)
	for name, c := range map[string]apdu.Command{
		"in clear":        {CLA: 0x80, INS: 0xE2, Data: make([]byte, 8)},
		"another class":   {CLA: 0xC4, INS: 0xE2, Data: make([]byte, 8)},
		"short of a byte": {CLA: 0x84, INS: 0xE2, Data: make([]byte, 7)},
	} {
		if _, s, err := m.Received(scp03.State{Counter: 7}, c); fault.CodeOf(err) != fault.InvalidInput || s.Counter != 7 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	m.Level = 0x00
	if _, _, err := m.Received(scp03.State{}, apdu.Command{CLA: 0x84, INS: 0xE2, Data: make([]byte, 8)}); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("at level 00: %v", err)
	}
}

// TestVerifyLength: what is as long as no MAC proves nothing, even where it is the
// beginning of the right one.
func TestVerifyLength(t *testing.T) {
	_, m := session(t, 0x01, scp03.S16)
	w, _ := wrap(t, m, scp03.State{}, apdu.Command{CLA: 0x80, INS: 0xE2, Data: []byte{1, 2, 3}})
	whole, _, err := m.Received(scp03.State{}, w)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 18 {
		o := whole
		o.Sent = append(bytes.Clone(whole.Sent), 0)[:n]
		chaining, err := o.Verify(ctx, m.Token)
		switch {
		case n == 8 || n == 16:
			if err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
		case fault.CodeOf(err) != fault.ProofFailed || chaining != [16]byte{}:
			t.Errorf("%d bytes: %X, %v", n, chaining, err)
		}
	}
}
