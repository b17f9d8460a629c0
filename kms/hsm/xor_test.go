package hsm_test

import (
	"bytes"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// TestExclusiveOr: a token that has it computes the retail MAC as software does; the other
// one says that it cannot. No mask but that of a counter is taken, and none for a master.
func TestExclusiveOr(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		var soft derivetest.Token
		imk := importRoot(t, tok, &soft, "imk", key.TDEA2, derive.Static)
		made := derive.Step{Function: derive.ECB, Messages: [][]byte{value("card", key.TDEA2)}, Class: derive.Static, Algorithm: key.TDEA2}
		mask := []byte{6: 0x12, 7: 0x34, 14: 0xED, 15: 0xCB}
		k, err := imk.RetailXOR(made, mask)
		if err != nil {
			t.Fatal(err)
		}
		defer tok.Release(k.Whole(), k.Left(), k.Whole().Parent(), k.Left().Parent())
		message := bytes.Repeat([]byte("8 bytes."), 3)
		got, err := tok.RetailMAC(ctx, k, message)
		if strings.HasSuffix(t.Name(), "softhsm") {
			wantCode(t, "a token without", err, fault.TokenUnable)
			return
		}
		want, _ := soft.RetailMAC(ctx, k, message)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%X, want %X (%v)", got, want, err)
		}
		other, _ := imk.RetailXOR(made, []byte{6: 0x12, 7: 0x36, 14: 0xED, 15: 0xC9}) // the last bit is one of parity
		defer tok.Release(other.Whole(), other.Left())
		if got, err := tok.RetailMAC(ctx, other, message); err != nil || bytes.Equal(got, want) {
			t.Errorf("another counter gives the same MAC %X (%v)", got, err)
		}
		card := imk.Derive(made)
		for name, from := range map[string]*derive.Key{
			"a master":                 imk.Derive(derive.Step{Function: derive.XOR, Messages: [][]byte{mask}, Class: derive.SessionENC, Algorithm: key.TDEA2}),
			"more than a counter":      card.Derive(derive.Step{Function: derive.XOR, Messages: [][]byte{append([]byte{1}, mask[1:]...)}, Class: derive.SessionENC, Algorithm: key.TDEA2}),
			"a mask of another length": card.Derive(derive.Step{Function: derive.XOR, Messages: [][]byte{mask[:8]}, Class: derive.SessionENC, Algorithm: key.TDEA2}),
			"a key of another length":  card.Derive(derive.Step{Function: derive.XOR, Messages: [][]byte{append(mask, mask[:8]...)}, Class: derive.SessionENC, Algorithm: key.TDEA3}),
			"no mask":                  card.Derive(derive.Step{Function: derive.XOR, Class: derive.SessionENC, Algorithm: key.TDEA2}),
		} {
			if got, err := tok.Encrypt(ctx, from, message); err == nil {
				t.Errorf("%s: %X", name, got)
			}
		}
	})
}
