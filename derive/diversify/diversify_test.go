package diversify_test

import (
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var (
	algorithms = []key.Algorithm{key.AES128, key.AES192, key.AES256, key.TDEA2, key.TDEA3}
	kdd        = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
)

// TestFits states every pair of master and card algorithm that each method
// serves; whatever is not listed must be refused.
func TestFits(t *testing.T) {
	type pair struct{ master, card key.Algorithm }
	tdes := map[pair]bool{{key.TDEA2, key.TDEA2}: true, {key.TDEA2, key.AES128}: true}
	kdf3, none := map[pair]bool{}, map[pair]bool{}
	for _, a := range algorithms {
		none[pair{a, a}] = true
		for _, b := range algorithms {
			kdf3[pair{a, b}] = !a.TDEA() && !b.TDEA()
		}
	}
	an10922 := map[pair]bool{}
	for _, a := range []key.Algorithm{key.AES128, key.AES256, key.TDEA2, key.TDEA3} {
		an10922[pair{a, a}] = true
	}
	want := map[diversify.Method]map[pair]bool{
		diversify.None: none, diversify.VISA2: tdes, diversify.EMV: tdes, diversify.VISA: tdes,
		diversify.KDF3: kdf3, diversify.AN10922: an10922,
	}
	for _, m := range diversify.Methods() {
		for _, a := range algorithms {
			for _, b := range algorithms {
				err := diversify.Fits(m, a, b)
				if want[m][pair{a, b}] != (err == nil) {
					t.Errorf("%s, %s from %s: %v", m, b, a, err)
				}
				code := fault.InvalidInput
				if m == diversify.AN10922 && a == key.AES192 {
					code = fault.TokenUnable // a fact about tokens, not about the request
				}
				if err != nil && fault.CodeOf(err) != code {
					t.Errorf("%s, %s from %s: code %s, want %s", m, b, a, fault.CodeOf(err), code)
				}
			}
		}
	}
	if err := diversify.Fits("kdf4", key.AES128, key.AES128); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("an unknown method: %v", err)
	}
}

// TestBadInput gives every wrong length of the diversification data.
func TestBadInput(t *testing.T) {
	var tok derivetest.Token
	aes := tok.Add("aes", key.AES128, derive.Static, make([]byte, 16))
	tdea := tok.Add("tdea", key.TDEA3, derive.Static, make([]byte, 24))
	for n := range 40 {
		b := make([]byte, n)
		_, err := diversify.Card(diversify.KDF3, aes, b, diversify.Target{Class: derive.Static, Algorithm: key.AES128})
		if (err == nil) != (n == diversify.KDDBytes) || err != nil && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("key diversification data of %d bytes: %v", n, err)
		}
		_, err = diversify.FromInput(aes, b, diversify.Target{Class: derive.Static, Algorithm: key.AES128})
		if (err == nil) != (n >= 1 && n <= 31) || err != nil && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("an AES input of %d bytes: %v", n, err)
		}
		_, err = diversify.FromInput(tdea, b, diversify.Target{Class: derive.Static, Algorithm: key.TDEA3})
		if (err == nil) != (n >= 1 && n <= 15) || err != nil && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("a 3DES input of %d bytes: %v", n, err)
		}
	}
	_, err := diversify.FromInput(aes, kdd, diversify.Target{Class: derive.Static, Algorithm: key.AES256})
	if fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("a larger key than the master: %v", err)
	}
}

// TestPurposes: the four keys of a card differ by every method that derives, and
// two cards never share one.
func TestPurposes(t *testing.T) {
	var tok derivetest.Token
	aes := tok.Add("aes", key.AES256, derive.Static, make([]byte, 32))
	tdea := tok.Add("tdea", key.TDEA2, derive.Static, []byte("0123456789ABCDEF"))
	other := append([]byte{}, kdd...)
	other[9] ^= 1
	other[4] ^= 1
	for _, m := range diversify.Methods() {
		master, a := aes, key.AES256
		if m == diversify.VISA2 || m == diversify.EMV || m == diversify.VISA {
			master, a = tdea, key.AES128
		}
		seen := map[string]bool{}
		for _, card := range [][]byte{kdd, other} {
			for _, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK, diversify.Update} {
				k, err := diversify.Card(m, master, card, diversify.Target{Purpose: p, Class: derive.Static, Algorithm: a})
				if err != nil {
					t.Fatalf("%s: %v", m, err)
				}
				seen[string(tok.Value(k))] = true
			}
		}
		want := 8
		if m == diversify.None {
			want = 1
		}
		if len(seen) != want {
			t.Errorf("%s gives %d different keys, want %d", m, len(seen), want)
		}
	}
}

// TestWorkedExample is the input block of the package comment.
func TestWorkedExample(t *testing.T) {
	var tok derivetest.Token
	master := tok.Add("aes", key.AES128, derive.Static, make([]byte, 16))
	k, err := diversify.Card(diversify.KDF3, master, kdd, diversify.Target{Purpose: diversify.MAC, Class: derive.Static, Algorithm: key.AES128})
	if err != nil {
		t.Fatal(err)
	}
	const want = "\x01\x00\x00\x00\x02\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"
	if in := k.Step().Inputs(key.AES128); len(in) != 1 || string(in[0]) != want {
		t.Errorf("the input is % X", in)
	}
}
