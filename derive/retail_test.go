package derive_test

import (
	"bytes"
	"context"
	"crypto/des"
	"crypto/subtle"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/key"
)

// TestRetail derives both halves of a key of the retail MAC by ECB and by CBC: the left
// one is the first half of the whole one three times, so its 3DES is DES.
func TestRetail(t *testing.T) {
	tok := new(derivetest.Token)
	base := tok.Add("card", key.TDEA2, derive.StaticCBC, []byte("0123456789ABCDEF"))
	data := []byte("derivation data!")
	for _, f := range []derive.Function{derive.ECB, derive.CBC} {
		k, err := base.Retail(derive.Step{Function: f, Messages: [][]byte{data}})
		if err != nil {
			t.Fatal(err)
		}
		whole := tok.Value(k.Whole())
		if left := tok.Value(k.Left()); !bytes.Equal(left, bytes.Repeat(whole[:8], 3)) {
			t.Errorf("function %d: the left half is %X of %X", f, left, whole)
		}
		if k.Whole().Class() != derive.SessionRetail || k.Left().Class() != derive.SessionRetailLeft {
			t.Error("the halves have other classes")
		}
		message := bytes.Repeat([]byte{0xA5, 1, 2, 3, 4, 5, 6, 7}, 3)
		got, err := tok.RetailMAC(context.Background(), k, message)
		if err != nil || !bytes.Equal(got, algorithm3(t, whole, message)) {
			t.Errorf("function %d: the MAC is %X, %v", f, got, err)
		}
	}
}

// algorithm3 is [9797-1], Section 7.4 as it is written: DES-CBC with K1, then D with K2
// and E with K1.
func algorithm3(t *testing.T, k, message []byte) []byte {
	t.Helper()
	k1, err := des.NewCipher(k[:8])
	if err != nil {
		t.Fatal(err)
	}
	k2, err := des.NewCipher(k[8:])
	if err != nil {
		t.Fatal(err)
	}
	x := make([]byte, 8)
	for ; len(message) > 0; message = message[8:] {
		subtle.XORBytes(x, x, message[:8])
		k1.Encrypt(x, x)
	}
	k2.Decrypt(x, x)
	k1.Encrypt(x, x)
	return x
}

func TestRetailRefused(t *testing.T) {
	tdea := derive.FromRoot(derive.Root{Label: "3DES", Algorithm: key.TDEA2, Class: derive.StaticCBC})
	aes := derive.FromRoot(derive.Root{Label: "AES", Algorithm: key.AES128, Class: derive.Static})
	block := make([]byte, 16)
	for name, c := range map[string]struct {
		base *derive.Key
		step derive.Step
	}{
		"AES":          {aes, derive.Step{Function: derive.ECB, Messages: [][]byte{block}}},
		"a CMAC":       {tdea, derive.Step{Function: derive.CMACCounter, Messages: [][]byte{block}}},
		"one block":    {tdea, derive.Step{Function: derive.CBC, Messages: [][]byte{block[:8]}}},
		"two messages": {tdea, derive.Step{Function: derive.CBC, Messages: [][]byte{block, block}}},
		"nothing":      {tdea, derive.Step{Function: derive.CBC}},
	} {
		if _, err := c.base.Retail(c.step); err == nil {
			t.Errorf("a key of the retail MAC is made of %s", name)
		}
	}
}

func TestDerives(t *testing.T) {
	for c := derive.Static; c <= derive.SessionRetailLeft; c++ {
		if want := c == derive.Static || c == derive.StaticCBC; c.Derives() != want {
			t.Errorf("class %d derives: %t", c, c.Derives())
		}
	}
}

// TestRetailXOR: both halves follow from the same value, and only a counter changes it.
func TestRetailXOR(t *testing.T) {
	var tok derivetest.Token
	imk := tok.Add("imk", key.TDEA2, derive.Static, bytes.Repeat([]byte{0x2F, 0x15}, 8))
	made := derive.Step{Function: derive.ECB, Messages: [][]byte{bytes.Repeat([]byte{1, 2, 3, 4}, 4)}, Class: derive.Static, Algorithm: key.TDEA2}
	mask := []byte{7: 1, 15: 0xFE}
	k, err := imk.RetailXOR(made, mask)
	if err != nil {
		t.Fatal(err)
	}
	master, whole, left := tok.Value(imk.Derive(made)), tok.Value(k.Whole()), tok.Value(k.Left())
	for i := range master {
		master[i] ^= mask[i]
	}
	if !bytes.Equal(whole, master) || !bytes.Equal(left, bytes.Repeat(master[:8], 3)) {
		t.Errorf("%X and %X, want %X and its left half", whole, left, master)
	}
	if _, err := imk.RetailXOR(made, mask[:8]); err == nil {
		t.Error("a mask of 8 bytes")
	}
	for _, s := range []derive.Step{
		{Function: derive.ECB, Messages: [][]byte{mask}, Algorithm: key.TDEA2},
		{Function: derive.XOR, Messages: [][]byte{mask}, Algorithm: key.AES128},
		{Function: derive.XOR, Messages: [][]byte{mask, mask}, Algorithm: key.TDEA2},
		{Function: derive.XOR, Messages: [][]byte{append([]byte{1}, mask[1:]...)}, Algorithm: key.TDEA2},
	} {
		if s.Counts() {
			t.Errorf("%+v counts", s)
		}
	}
}
