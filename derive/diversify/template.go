package diversify

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// A template is a diversification that has no name here: a function and the bytes
// that it takes, in the manner of GlobalPlatformPro's templates with $0 to $9.
//
//	template  function ":" byte *( "." byte )
//	function  "ecb"    3DES-ECB or AES-ECB of the bytes, which are as many as the key has
//	          "cmac"   CMAC(MK, i | bytes), i = 1, 2, …, under an AES master
//	byte      "k0" … "k9"  a byte of the KDD
//	          "t"          the purpose: 1 ENC, 2 MAC, 3 DEK, 4 K-UPD
//	          two upper-case hexadecimal digits
//
// So emv is ecb:k4.k5.k6.k7.k8.k9.F0.t.k4.k5.k6.k7.k8.k9.0F.t and kdf3 is
// cmac:00.00.00.t.00.k0.k1.k2.k3.k4.k5.k6.k7.k8.k9. It is data and no code: it has one
// spelling, ends, and says all that it does. Refused are templates with fewer than
// four different bytes of the KDD, which give many cards one value; those without the
// purpose, or with a block of ECB that is without it, whose keys would share a value;
// and those whose halves could be equal.
type template struct {
	function derive.Function
	bytes    []templateByte
}

// templateByte is one byte: of the KDD, the purpose, or itself.
type templateByte struct {
	kdd     int // number of a byte of the KDD, -1 for none
	purpose bool
	value   byte
}

// templateBytesMax bounds a template; two AES blocks are the longest that makes sense.
const templateBytesMax = 32

// kddBytesMin is how many different bytes of the KDD tell cards apart.
const kddBytesMin = 4

// parseTemplate reads what Method spells.
func parseTemplate(m Method) (t template, err error) {
	bad := fault.New(fault.InvalidInput, "a diversification is one of those with a name, or a template: ecb or cmac, a colon, and bytes k0 to k9, t or two upper-case hexadecimal digits, joined by dots")
	name, rest, ok := strings.Cut(string(m), ":")
	if t.function = map[string]derive.Function{"ecb": derive.ECB, "cmac": derive.CMACCounter}[name]; !ok || t.function == 0 {
		return t, bad
	}
	varied, hasPurpose := map[int]bool{}, false
	for _, word := range strings.Split(rest, ".") {
		b, err := parseByte(word)
		if err != nil {
			return t, bad
		}
		if hasPurpose = hasPurpose || b.purpose; b.kdd >= 0 {
			varied[b.kdd] = true
		}
		t.bytes = append(t.bytes, b)
	}
	if len(varied) < kddBytesMin || !hasPurpose || len(t.bytes) > templateBytesMax {
		return t, fault.New(fault.InvalidInput, fmt.Sprintf("a template has %d or more different bytes of the KDD in it, so that cards differ, the purpose, and at most %d bytes", kddBytesMin, templateBytesMax))
	}
	return t, nil
}

func parseByte(word string) (templateByte, error) {
	b := templateByte{kdd: -1}
	switch {
	case word == "t":
		b.purpose = true
		return b, nil
	case len(word) != 2:
	case word[0] == 'k' && word[1] >= '0' && word[1] <= '9':
		b.kdd = int(word[1] - '0')
		return b, nil
	case strings.Trim(word, "0123456789ABCDEF") == "":
		v, err := hex.DecodeString(word)
		b.value = v[0]
		return b, err
	}
	return b, fault.New(fault.InvalidInput, "no byte of a template")
}

// fits checks that a master of one algorithm can give card keys of another.
func (t template) fits(master, card key.Algorithm) bool {
	if t.function == derive.CMACCounter {
		return !master.TDEA() && !card.TDEA() && master.Size() != 0 && card.Size() != 0
	}
	n, block := len(t.bytes), derive.BlockSize(master)
	if master.Size() == 0 || card.Size() != n || n%block != 0 || master.TDEA() && n != 2*block {
		return false
	}
	return n == block && t.hasPurpose(0, block) || n == 2*block && t.hasPurpose(0, block) && t.hasPurpose(block, n) && t.halvesDiffer(block)
}

func (t template) hasPurpose(from, to int) bool {
	return slices.ContainsFunc(t.bytes[from:to], func(b templateByte) bool { return b.purpose })
}

// halvesDiffer reports whether the two blocks are different for every card and purpose:
// somewhere both have a constant, and not the same one. Equal blocks give equal halves,
// and a 3DES key of equal halves is single DES.
func (t template) halvesDiffer(block int) bool {
	for i := range block {
		a, b := t.bytes[i], t.bytes[block+i]
		if a.constant() && b.constant() && a.value != b.value {
			return true
		}
	}
	return false
}

func (b templateByte) constant() bool { return b.kdd < 0 && !b.purpose }

// step derives one key of one card.
func (t template) step(kdd []byte, to Target) derive.Step {
	in := make([]byte, len(t.bytes))
	for i, b := range t.bytes {
		switch {
		case b.kdd >= 0:
			in[i] = kdd[b.kdd]
		case b.purpose:
			in[i] = byte(to.Purpose)
		default:
			in[i] = b.value
		}
	}
	s := derive.Step{Function: t.function, Class: to.Class, Algorithm: to.Algorithm}
	if t.function == derive.ECB {
		s.Messages = [][]byte{in}
	} else {
		s.After = in
	}
	return s
}
