package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// TestResponses states what each level does with each kind of status word:
// success and warnings carry an R-MAC, errors carry nothing.
func TestResponses(t *testing.T) {
	for _, l := range []scp03.Level{0x11, 0x13, 0x33} {
		for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
			_, m := session(t, l, mode)
			s := scp03.State{Chaining: [16]byte{9}, Counter: 3}
			for _, sw := range []apdu.SW{0x9000, 0x6200, 0x6282, 0x6310, 0x63CF} {
				for _, data := range [][]byte{nil, []byte("card data"), make([]byte, 16), make([]byte, 255)} {
					padded := data
					if l&scp03.REncryption != 0 && len(data) > 0 {
						padded = derive.Pad2(data, 16)
					}
					u, err := m.Unwrap(ctx, s, respond(t, m, s, padded, sw))
					if err != nil || u.SW != sw || !bytes.Equal(u.Data, data) {
						t.Errorf("level %02X, %s, %d bytes: %v", l, sw, len(data), err)
					}
				}
				// The R-MAC is not optional where it belongs.
				for n := range int(mode) {
					if _, err := m.Unwrap(ctx, s, apdu.Response{Data: make([]byte, n), SW: sw}); fault.CodeOf(err) != fault.ProofFailed {
						t.Errorf("level %02X, %s without its R-MAC (%d bytes): %v", l, sw, n, err)
					}
				}
			}
			for _, sw := range []apdu.SW{0x6982, 0x6A88, 0x6F00, 0x6100, 0x9001, 0x0000} {
				if u, err := m.Unwrap(ctx, s, apdu.Response{SW: sw}); err != nil || u.SW != sw || len(u.Data) != 0 {
					t.Errorf("level %02X, %s: %v", l, sw, err)
				}
				// Data beside an error would be data under no MAC.
				if _, err := m.Unwrap(ctx, s, respond(t, m, s, nil, sw)); fault.CodeOf(err) != fault.ProofFailed {
					t.Errorf("level %02X, %s with data: %v", l, sw, err)
				}
			}
		}
	}
}

// TestOverPadded: recorded cards pad a response by whole blocks more than method
// 2 asks for; what has no padding at all is refused.
func TestOverPadded(t *testing.T) {
	_, m := session(t, 0x33, scp03.S8)
	s := scp03.State{Counter: 1}
	for extra := range 4 {
		padded := append(derive.Pad2([]byte("answer"), 16), make([]byte, 16*extra)...)
		if u, err := m.Unwrap(ctx, s, respond(t, m, s, padded, apdu.Success)); err != nil || string(u.Data) != "answer" {
			t.Errorf("%d blocks too many: %q, %v", extra, u.Data, err)
		}
	}
	for name, padded := range map[string][]byte{
		"no 80":          make([]byte, 16),
		"garbage behind": append(derive.Pad2([]byte("answer"), 16)[:15], 1),
		"half a block":   nil,
	} {
		r := respond(t, m, s, padded, apdu.Success)
		if padded == nil {
			mac, _ := m.Token.MAC(ctx, m.Keys.RMAC, append(append(s.Chaining[:], make([]byte, 8)...), 0x90, 0x00))
			r = apdu.Response{Data: append(make([]byte, 8), mac[:8]...), SW: apdu.Success}
		}
		if _, err := m.Unwrap(ctx, s, r); fault.CodeOf(err) != fault.ProofFailed || err.Error() != fault.Proof().Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestResponseBits flips every bit of a protected response, status word
// included: each is one opaque error, and nothing is decrypted first.
func TestResponseBits(t *testing.T) {
	for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
		tok, m := session(t, 0x33, mode)
		s := scp03.State{Chaining: [16]byte{4, 5}, Counter: 9}
		good := respond(t, m, s, derive.Pad2([]byte("secret"), 16), apdu.Success).Bytes()
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			r, err := apdu.ParseResponse(b)
			if err != nil {
				t.Fatal(err)
			}
			before := tok.Calls
			u, err := m.Unwrap(ctx, s, r)
			if fault.CodeOf(err) != fault.ProofFailed || err.Error() != fault.Proof().Error() || u.Data != nil {
				t.Errorf("bit %d: %v", bit, err)
			}
			if n := tok.Calls - before; n > 1 {
				t.Errorf("bit %d: %d uses of the token", bit, n)
			}
		}
		// The same response under another state: a replay, or a reordering.
		r, _ := apdu.ParseResponse(good)
		for _, other := range []scp03.State{{}, {Chaining: [16]byte{4, 6}, Counter: 9}} {
			if _, err := m.Unwrap(ctx, other, r); fault.CodeOf(err) != fault.ProofFailed {
				t.Errorf("a replay: %v", err)
			}
		}
	}
}

// TestKeyBlock: the length field decides between the two formats, and a failed
// wrap or check value gives no block.
func TestKeyBlock(t *testing.T) {
	tok := new(derivetest.Token)
	dek := tok.Add("dek", key.AES128, derive.DataEncryption, make([]byte, 16))
	for _, c := range []struct {
		size         int
		with, length string
	}{{16, "88111", "8810"}, {24, "88211", "-"}, {32, "88212", "8820"}} {
		k := aes(t, tok, "new", derive.Transport, make([]byte, c.size))
		with, err := scp03.KeyBlock(ctx, tok, dek, k, scp03.WithLength)
		if err != nil || !bytes.HasPrefix([]byte(apdu.Hex(with)), []byte(c.with)) || int(with[2]) != c.size {
			t.Errorf("%d bytes with length: %X, %v", c.size, with, err)
		}
		without, err := scp03.KeyBlock(ctx, tok, dek, k, scp03.NoLength)
		if c.length == "-" {
			if err == nil {
				t.Errorf("a padded key without its length gives %X", without)
			}
			continue
		}
		if err != nil || !bytes.HasPrefix([]byte(apdu.Hex(without)), []byte(c.length)) {
			t.Errorf("%d bytes without: %X, %v", c.size, without, err)
		}
		// Both end in 03 and the check value over 16 bytes 01.
		want := "03" + derivetest.KCV(k.Algorithm(), make([]byte, c.size)).Value
		for _, b := range [][]byte{with, without} {
			if got := apdu.Hex(b[len(b)-4:]); got != want {
				t.Errorf("the block ends in %s, want %s", got, want)
			}
		}
	}
}
