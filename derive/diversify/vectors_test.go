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

type octets = derivetest.Octets

// vector is one known answer of either file.
type vector struct {
	id, method        string
	master, data, out octets   // out: the one key of AN10922
	keys              []octets // K-ENC, K-MAC, K-DEK, as far as known
	kcvs              []string
	masked            bool // out was printed with some parity bits changed
}

// masterOf tells a 3DES master from an AES one by the vector's method.
func (v vector) masterOf() key.Algorithm {
	tdea := !strings.HasPrefix(v.method, "kdf3") && !strings.HasPrefix(v.method, "an10922-aes")
	switch {
	case tdea && len(v.master) == 16:
		return key.TDEA2
	case tdea:
		return key.TDEA3
	}
	a, _ := key.AESOfSize(len(v.master))
	return a
}

// parity clears the bits that the cipher ignores.
func parity(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] &^= 1
	}
	return out
}

func (v vector) run(t *testing.T) (compared int) {
	var tok derivetest.Token
	a := v.masterOf()
	master := tok.Add(v.id, a, derive.Static, v.master)
	if strings.HasPrefix(v.method, "an10922") {
		k, err := diversify.FromInput(master, v.data, diversify.Target{Class: derive.Static, Algorithm: a})
		if a == key.AES192 {
			if fault.CodeOf(err) != fault.TokenUnable {
				t.Errorf("AES-192: %v, want token_unable", err)
			}
			return 1
		}
		if err != nil {
			t.Fatal(err)
		}
		got, want := tok.Value(k), []byte(v.out)
		if v.masked {
			// The reference restored version bits, which DESFire keeps in the parity bits.
			got, want = parity(got), parity(want)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%X, want %X", got, want)
		}
		return 1
	}
	for i, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		k, err := diversify.Card(diversify.Method(v.method), master, v.data, diversify.Target{Purpose: p, Class: derive.Static, Algorithm: a})
		if err != nil {
			t.Fatal(err)
		}
		if i < len(v.keys) && v.keys[i] != nil {
			if got := tok.Value(k); !bytes.Equal(got, v.keys[i]) {
				t.Errorf("key %d is %X, want %X", p, got, v.keys[i])
			}
			compared++
		}
		if i < len(v.kcvs) {
			if got, _ := tok.KCV(t.Context(), k); got.Value != v.kcvs[i] {
				t.Errorf("key %d has the check value %s, want %s", p, got.Value, v.kcvs[i])
			}
			compared++
		}
	}
	return compared
}

func TestInteropVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			ID, Method, Algorithm                     string
			Master, KDD, Input, ENC, MAC, DEK, Output octets
			KCVTDEA                                   []string `json:"kcv_3des"`
			KCVAES                                    []string `json:"kcv_aes"`
		}
	}
	derivetest.ReadVectors(t, "diversification.json", &file)
	compared := 0
	for _, c := range file.Cases {
		v := vector{id: c.ID, master: c.Master, data: c.KDD, out: c.Output, keys: []octets{c.ENC, c.MAC, c.DEK}, kcvs: append(c.KCVTDEA, c.KCVAES...)}
		v.method = strings.ToLower(strings.Fields(c.Method)[0])
		if v.method == "an10922" {
			v.data = c.Input
			v.method += "-" + strings.ToLower(c.Algorithm)
		}
		t.Run(c.ID, func(t *testing.T) { compared += v.run(t) })
	}
	// 8 cases of three keys with three check values, 11 of one key.
	if len(file.Cases) != 19 || compared != 8*6+11 {
		t.Errorf("%d cases with %d comparisons", len(file.Cases), compared)
	}
}

func TestStandardVectors(t *testing.T) {
	var file struct {
		Vectors []struct {
			ID, Alg string
			In      struct {
				Method, Kind            string
				MK, KDD, Div, Key, Data octets
			}
			Out struct {
				KCV           []string
				Keys          []octets
				ENC, MAC, Key octets
				Masked        octets `json:"key_masked"`
			}
		}
	}
	derivetest.ReadVectors(t, "standards.json", &file)
	compared := 0
	for _, c := range file.Vectors {
		v := vector{id: c.ID, method: c.In.Method, master: c.In.MK, data: c.In.KDD, keys: c.Out.Keys, kcvs: c.Out.KCV, out: c.Out.Key}
		switch c.Alg {
		case "div_kdf3":
			v.method = "kdf3"
			if c.Out.ENC != nil {
				v.keys = []octets{c.Out.ENC}
			}
		case "an10922":
			v.method, v.data = "an10922-"+c.In.Kind, c.In.Div
			if c.Out.Masked != nil {
				v.out, v.masked = c.Out.Masked, true
			}
		case "cmac_aes":
			// The short AN10922 input under plain CMAC: shows that the two-block
			// variant matters.
			if got := derivetest.CMAC(derivetest.Cipher(key.AES128, c.In.Key), c.In.Data, 1); !bytes.Equal(got, c.Out.MAC) {
				t.Errorf("%s: %X, want %X", c.ID, got, c.Out.MAC)
			}
			compared++
			continue
		}
		t.Run(c.ID, func(t *testing.T) { compared += v.run(t) })
	}
	if len(file.Vectors) != 15 || compared != 2*3+2*3+3*3+1+6+1 {
		t.Errorf("%d vectors with %d comparisons", len(file.Vectors), compared)
	}
}
