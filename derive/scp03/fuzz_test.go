package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// FuzzParseAnswer: what is accepted encodes to the same bytes; what is refused is
// invalid_input.
func FuzzParseAnswer(f *testing.F) {
	f.Add(worked, false)
	f.Add(worked[:29], false)
	f.Fuzz(func(t *testing.T, b []byte, sixteen bool) {
		m := scp03.S8
		if sixteen {
			m = scp03.S16
		}
		a, err := scp03.ParseAnswer(b, m)
		if err != nil {
			if fault.CodeOf(err) != fault.InvalidInput {
				t.Fatalf("code %s", fault.CodeOf(err))
			}
			return
		}
		if !bytes.Equal(encodeAnswer(a), b) {
			t.Fatalf("encoding gives %X", encodeAnswer(a))
		}
	})
}

// FuzzUnwrap: no response panics, and without the R-MAC key none that carries
// data is accepted at a level with R-MAC.
func FuzzUnwrap(f *testing.F) {
	f.Add([]byte{0x90, 0x00}, byte(0x33), uint32(1))
	f.Add(append(make([]byte, 24), 0x90, 0x00), byte(0x33), uint32(1))
	f.Add([]byte{0x6A, 0x88}, byte(0x11), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, level byte, counter uint32) {
		r, err := apdu.ParseResponse(b)
		if err != nil {
			return
		}
		mode := scp03.S8
		if counter%2 == 1 {
			mode = scp03.S16
		}
		_, m := session(t, scp03.Level(level), mode)
		u, err := m.Unwrap(ctx, scp03.State{Counter: counter}, r)
		switch {
		case err != nil && fault.CodeOf(err) != fault.ProofFailed:
			t.Fatalf("code %s", fault.CodeOf(err))
		case err == nil && scp03.Level(level)&scp03.RMAC != 0 && len(u.Data) > 0:
			t.Fatalf("a response without a key's R-MAC is accepted: %X", b)
		}
	})
}
