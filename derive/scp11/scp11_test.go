package scp11_test

import (
	"bytes"
	"crypto/ecdh"
	"testing"

	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

func answerOf(t testing.TB) []byte {
	r := recordings(t)[1].Answer
	return r[:len(r)-2]
}

// TestParse: an answer is taken whole and exactly, and refused wherever it ends before.
func TestParse(t *testing.T) {
	good := answerOf(t)
	a, err := scp11.ParseAnswer(good)
	if err != nil || !bytes.Equal(a.Ephemeral.Bytes(), good[3:68]) || !bytes.Equal(a.Receipt[:], good[70:]) {
		t.Fatalf("%+v, %v", a, err)
	}
	for n := range good {
		if _, err := scp11.ParseAnswer(good[:n]); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	edit := func(at int, b ...byte) []byte {
		out := bytes.Clone(good)
		copy(out[at:], b)
		return out
	}
	for name, b := range map[string][]byte{
		"more behind it":              append(bytes.Clone(good), 0x90, 0x00),
		"the objects exchanged":       append(bytes.Clone(good[68:]), good[:68]...),
		"a receipt of 15 bytes":       append(bytes.Clone(good[:68]), append([]byte{0x86, 15}, good[70:85]...)...),
		"a length in two bytes":       append(append(bytes.Clone(good[:2]), 0x81), good[2:]...),
		"another tag":                 edit(0, 0x7F),
		"a compressed point":          edit(3, 0x02),
		"a hybrid point":              edit(3, 0x06),
		"a point not on the curve":    edit(67, good[67]^1),
		"a coordinate over the field": edit(4, bytes.Repeat([]byte{0xFF}, 32)...),
		"the point at infinity":       append([]byte{0x5F, 0x49, 0x01, 0x00}, good[68:]...),
		"zeros":                       edit(4, make([]byte, 64)...),
	} {
		if _, err := scp11.ParseAnswer(b); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(answerOf(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := scp11.ParseAnswer(b)
		if err != nil {
			return
		}
		again := apdu.AppendTLV(apdu.AppendTLV(nil, 0x5F49, a.Ephemeral.Bytes()), 0x86, a.Receipt[:])
		if !bytes.Equal(again, b) {
			t.Errorf("%X was read as %X", b, again)
		}
	})
}

// TestCertify: what does not fit into one command is chained, or sent in extended form.
func TestCertify(t *testing.T) {
	chain := [][]byte{bytes.Repeat([]byte{1}, 256), bytes.Repeat([]byte{2}, 255), bytes.Repeat([]byte{3}, 600)}
	type sent struct {
		cla, p2  byte
		n        int
		extended bool
	}
	for extended, want := range map[bool][]sent{
		true: {{0x80, 0x90, 256, true}, {0x80, 0x90, 255, false}, {0x80, 0x10, 600, true}},
		false: {{0x90, 0x90, 255, false}, {0x80, 0x90, 1, false}, {0x80, 0x90, 255, false},
			{0x90, 0x10, 255, false}, {0x90, 0x10, 255, false}, {0x80, 0x10, 90, false}},
	} {
		var whole []byte
		got := scp11.Certify(scp11.Reference{KVN: 3, KID: 0x10}, chain, extended)
		if len(got) != len(want) {
			t.Fatalf("%d commands", len(got))
		}
		for i, c := range got {
			if (sent{c.CLA, c.P2, len(c.Data), c.Extended}) != want[i] || c.INS != 0x2A || c.P1 != 3 || c.Ne != 0 {
				t.Errorf("command %d: %+v", i, c)
			}
			whole = append(whole, c.Data...)
			if _, err := apdu.ParseCommand(c.Bytes()); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(whole, bytes.Join(chain, nil)) {
			t.Error("other bytes than the certificates")
		}
	}
}

// TestKDD states the rule that names a card, with a key whose digest was computed with
// openssl pkey -pubin -outform DER | sha256sum.
func TestKDD(t *testing.T) {
	k, err := ecdh.P256().NewPrivateKey(append(make([]byte, 31), 1)) // the generator is its public key
	if err != nil {
		t.Fatal(err)
	}
	if got := apdu.Hex(scp11.KDD(k.PublicKey())); got != "5CD252FB0CE8932436FA" {
		t.Errorf("the card is called %s", got)
	}
}
