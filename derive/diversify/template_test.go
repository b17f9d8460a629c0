package diversify_test

import (
	"bytes"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// templates spell the methods that have names.
var templates = map[diversify.Method]diversify.Method{
	diversify.VISA2: "ecb:k0.k1.k4.k5.k6.k7.F0.t.k0.k1.k4.k5.k6.k7.0F.t",
	diversify.EMV:   "ecb:k4.k5.k6.k7.k8.k9.F0.t.k4.k5.k6.k7.k8.k9.0F.t",
	diversify.VISA:  "ecb:k0.k1.k2.k3.k8.k9.F0.t.k0.k1.k2.k3.k8.k9.0F.t",
	diversify.KDF3:  "cmac:00.00.00.t.00.k0.k1.k2.k3.k4.k5.k6.k7.k8.k9",
}

// TestTemplatesSpellMethods: a template gives the keys of the method that it spells,
// which other people's programs agree on.
func TestTemplatesSpellMethods(t *testing.T) {
	var tok derivetest.Token
	masters := map[bool]*derive.Key{
		true:  tok.Add("des", key.TDEA2, derive.Static, []byte("sixteen bytes!!!")),
		false: tok.Add("aes", key.AES256, derive.Static, bytes.Repeat([]byte{7, 9}, 16)),
	}
	kdd := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for named, spelt := range templates {
		tdea := named != diversify.KDF3
		algorithms := []key.Algorithm{key.AES128}
		if tdea {
			algorithms = append(algorithms, key.TDEA2)
		} else {
			algorithms = append(algorithms, key.AES192, key.AES256)
		}
		for _, a := range algorithms {
			for _, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK, diversify.Update} {
				to := diversify.Target{Purpose: p, Class: derive.Static, Algorithm: a}
				want, err := diversify.Card(named, masters[tdea], kdd, to)
				if err != nil {
					t.Fatal(err)
				}
				got, err := diversify.Card(spelt, masters[tdea], kdd, to)
				if err != nil || !bytes.Equal(tok.Value(got), tok.Value(want)) {
					t.Errorf("%s for %s of %s: %v", spelt, p, a, err)
				}
			}
		}
	}
}

// TestTemplatesRefused: what is no template, or would give two cards, two purposes or
// the two halves of a key the same value.
func TestTemplatesRefused(t *testing.T) {
	good := string(templates[diversify.EMV])
	for name, m := range map[string]string{
		"nothing": "", "a name": "emv3", "no bytes": "ecb:", "another function": "cbc" + good[3:], "upper case": "ECB" + good[3:],
		"a space": strings.Replace(good, ".", " ", 1), "a comma": strings.Replace(good, ".", ",", 1), "an end": good + ".", "a begin": "ecb:." + good[4:],
		"k10": strings.Replace(good, "k4", "k10", 1), "ka": strings.Replace(good, "k4", "ka", 1), "a dollar": strings.Replace(good, "k4", "$4", 1),
		"lower-case hexadecimal": strings.Replace(good, "F0", "f0", 1), "one digit": strings.Replace(good, "F0", "F", 1), "0x": strings.Replace(good, "F0", "0xF0", 1),
		"code": "ecb:k4.k5;rm", "a zero byte": good + "\x00", "no card": "ecb:00.t.00.00.00.00.00.00.01.t.00.00.00.00.00.00",
		"no purpose": strings.ReplaceAll(good, ".t", ".01"), "15 bytes": strings.TrimSuffix(good, ".t"), "17 bytes": good + ".00",
		"equal halves": "ecb:k4.k5.k6.k7.k8.k9.F0.t.k4.k5.k6.k7.k8.k9.F0.t", "halves that are equal for one purpose": "ecb:k0.k1.k2.k3.k4.k5.k6.t.k0.k1.k2.k3.k4.t.01.01",
		"halves that are equal for some cards": "ecb:k0.k1.k2.k3.k4.k5.k6.t.k1.k0.k2.k3.k4.k5.k6.t",
		"a half without the purpose":           "ecb:k0.k1.k2.k3.k4.k5.F0.t.k0.k1.k2.k3.k4.k5.0F.00",
		"three bytes of the KDD":               "ecb:k0.k1.k2.00.00.00.F0.t.k0.k1.k2.00.00.00.0F.t",
		"too long":                             good + strings.Repeat(".00", 17),
	} {
		if err := diversify.Fits(diversify.Method(m), key.TDEA2, key.AES128); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ master, card key.Algorithm }{
		"a longer key": {key.TDEA2, key.AES256}, "a signing key": {key.Ed25519, key.AES128}, "an AES-192 card key": {key.AES192, key.AES192},
	} {
		if err := diversify.Fits(diversify.Method(good), c.master, c.card); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := diversify.Fits(templates[diversify.KDF3], key.TDEA2, key.AES128); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("CMAC under 3DES: %v", err)
	}
}

// FuzzTemplate: no text makes it panic, and what it takes, it takes under one spelling.
func FuzzTemplate(f *testing.F) {
	for _, m := range templates {
		f.Add(string(m))
	}
	f.Add("ecb:..")
	f.Fuzz(func(t *testing.T, text string) {
		if diversify.Fits(diversify.Method(text), key.TDEA2, key.AES128) != nil && diversify.Fits(diversify.Method(text), key.AES128, key.AES128) != nil {
			return
		}
		if strings.ContainsAny(text, " $xX\n") || len(text) > 200 {
			t.Errorf("%q is a diversification", text)
		}
	})
}
