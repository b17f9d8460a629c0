// Package emv computes what an EMV issuer does for one card: application
// cryptograms and their answers, and the secure messaging of issuer scripts.
//
// It follows [EMV2] EMV Integrated Circuit Card Specifications for Payment Systems,
// Book 2, Security and Key Management, version 4.3 (what is experimental, 4.4): Annexes
// A1.3 (session keys) and A1.4 (ICC master keys), Sections 8.1 and 8.2 (ARQC, ARPC), 9.2 and 9.3 (script
// integrity and confidentiality, Formats 1 and 2). What differs between the payment
// schemes stands in a Profile, as data; the schemes' own documents are not public,
// so the profiles follow what independent implementations agree on (see testdata).
// Book 2 itself was not at hand either: its section numbers are those that these
// implementations name, and every formula is one that they agree on. Where only cards in
// software by other authors do the same, and no program of an issuer or HSM, the profile
// is experimental: that is Format 1 and everything under AES.
//
// It computes on references: IMK, ICC master key and session keys are inside the
// token, in the sense of package derive. It leaves out transaction data (the caller
// passes what the cryptogram covers, in the scheme's order), PIN blocks of
// the schemes, and who may ask. Under AES it leaves out keys of 192 and 256 bits, ARPC
// method 1 and Format 2, for which nothing was found that says how schemes do it.
// What needs key values as data, which no token takes, is
// left out too: Visa's PIN block with the current PIN. Visa's session keys of scripts are
// an exclusive or of the master key; a token that has none with a key inside answers
// fault.TokenUnable.
//
// Proofs are compared in constant time, and every failed proof is fault.Proof().
package emv

import (
	"crypto/sha1" //nolint:gosec // [EMV2], Annex A1.4.2 hashes public digits with it
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Card names a card as its ICC master key is derived from it.
type Card struct {
	PAN string // 12 to 19 decimal digits
	PSN string // PAN sequence number, two decimal digits; empty for none
}

// Check refuses what is no PAN or no PSN, without saying it.
func (c Card) Check() error {
	if n := len(c.PAN); n < 12 || n > 19 || !digits(c.PAN) {
		return fault.New(fault.InvalidInput, "a PAN has 12 to 19 decimal digits")
	}
	if len(c.PSN) != 0 && len(c.PSN) != 2 || !digits(c.PSN) {
		return fault.New(fault.InvalidInput, "a PAN sequence number has two decimal digits, or is left out")
	}
	return nil
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// number returns PAN | PSN, 00 if there is none: [EMV2], Annex A1.4.1.
func (c Card) number() string {
	if c.PSN == "" {
		return c.PAN + "00"
	}
	return c.PAN + c.PSN
}

// Option is how the ICC master key follows from the issuer's.
type Option string

// The options of [EMV2], Annex A1.4.
const (
	OptionA Option = "A"
	OptionB Option = "B"
	// OptionC is for AES. Experimental: see testdata/format1.json.
	OptionC Option = "C"
)

// Master refers to the ICC master key of one card.
type Master struct {
	key  *derive.Key // as a base of session keys
	imk  *derive.Key // that it follows from, nil if the token holds it itself
	step derive.Step
}

// MasterOf refers to an ICC master key, 3DES of class Static, that the token holds
// itself: for known answers which begin with one.
func MasterOf(k *derive.Key) Master { return Master{key: k} }

// NewMaster refers to the ICC master key of a card under the issuer master key imk, of
// class Static: 3DES under options A and B, AES under C.
func NewMaster(o Option, imk *derive.Key, c Card) (Master, error) {
	if err := c.Check(); err != nil {
		return Master{}, err
	}
	m := Master{imk: imk, step: derive.Step{Function: derive.ECB, Class: derive.Static, Algorithm: imk.Algorithm()}}
	if imk.Algorithm().TDEA() != (o != OptionC) {
		return Master{}, fault.New(fault.InvalidInput, "options A and B are of 3DES keys, option C is of AES keys")
	}
	var y []byte
	switch o {
	case OptionA:
		y = diversifierA(c)
	case OptionB:
		y = diversifierB(c)
	case OptionC:
		y = diversifierC(c)
	default:
		return Master{}, fault.New(fault.InvalidInput, "there are the options A, B and C")
	}
	if o != OptionC {
		m.step.Algorithm = key.TDEA2
	}
	m.step.Messages = [][]byte{complemented(y, m.step.Algorithm.Size())}
	m.key = imk.Derive(m.step)
	return m, nil
}

// complemented returns Y | Y xor FF…FF, as much of it as whole blocks give a key of
// this length.
func complemented(y []byte, size int) []byte {
	out := append([]byte{}, y...)
	if size > len(y) {
		for _, b := range y {
			out = append(out, ^b)
		}
	}
	return out
}

// diversifierA returns the rightmost 16 digits of PAN | PSN, padded with zeros on the
// left: [EMV2], Annex A1.4.1.
func diversifierA(c Card) []byte { return packed(c.number(), 16) }

// packed returns the rightmost n digits of s, n even, padded with zeros on the left.
func packed(s string, n int) []byte {
	s = strings.Repeat("0", n) + s
	b, _ := hex.DecodeString(s[len(s)-n:]) // of digits
	return b
}

// diversifierB is option A for PANs of at most 16 digits; of longer ones it takes the
// first 16 decimal digits of SHA-1 over PAN | PSN, where the letters A to F, read as
// 0 to 5, follow if there are too few: [EMV2], Annex A1.4.2.
func diversifierB(c Card) []byte {
	if len(c.PAN) <= 16 {
		return diversifierA(c)
	}
	n := c.number()
	sum := sha1.Sum(packed(n, (len(n)+1)/2*2)) //nolint:gosec // see the import
	text := hex.EncodeToString(sum[:])
	first := strings.Map(func(r rune) rune {
		if r > '9' {
			return -1
		}
		return r
	}, text)
	then := strings.Map(func(r rune) rune {
		if r <= '9' {
			return -1
		}
		return r - 'a' + '0'
	}, text)
	b, _ := hex.DecodeString((first + then)[:16]) // of digits
	return b
}

// diversifierC returns PAN | PSN padded with zeros on the left to 16 bytes: [EMV2],
// Annex A1.4.3.
func diversifierC(c Card) []byte { return packed(c.number(), 32) }

// Follows returns what the master key follows from beside the issuer's: two cards that
// have it in common have one master key.
func (m Master) Follows() []byte { return slices.Concat(m.step.Messages...) }

// Key refers to the master key as a base of session keys.
func (m Master) Key() *derive.Key { return m.key }

// Derivation is how a session key follows from the ICC master key.
type Derivation string

// The derivations.
const (
	// MasterItself: no session key; the master key computes the cryptogram.
	MasterItself Derivation = "mk"
	// CSK is the EMV Common Session Key: [EMV2], Annex A1.3.1, with R = ATC | 00 00 00
	// 00 00 00 for cryptograms and R = ARQC for scripts; under AES with zeros up to 16
	// bytes. It is the only one for AES.
	CSK Derivation = "csk"
	// SKD is the one of M/Chip, which has R = ATC | 00 00 | unpredictable number.
	SKD Derivation = "skd"
	// VisaXOR is the master key xor 00…00 | ATC | 00…00 | not ATC: of Visa's scripts.
	VisaXOR Derivation = "visa"
)

// Input is what a session key follows from; each derivation uses what it needs.
type Input struct {
	ATC  uint16
	UN   []byte // unpredictable number, 4 bytes
	ARQC []byte // 8 bytes; of the following commands of a script, plus one each
}

// seed returns R of [EMV2], Annex A1.3.1, 8 bytes.
func (d Derivation) seed(in Input, script bool) ([]byte, error) {
	atc := []byte{byte(in.ATC >> 8), byte(in.ATC)}
	switch {
	case d == CSK && script:
		if len(in.ARQC) != 8 {
			return nil, fault.New(fault.InvalidInput, "an application cryptogram has 8 bytes")
		}
		return in.ARQC, nil
	case d == CSK:
		return append(atc, 0, 0, 0, 0, 0, 0), nil
	case d == SKD && !script:
		if len(in.UN) != 4 {
			return nil, fault.New(fault.InvalidInput, "an unpredictable number has 4 bytes")
		}
		return append(append(atc, 0, 0), in.UN...), nil
	}
	return nil, fault.New(fault.InvalidInput, "no session key is derived in this way")
}

// spread returns what is encrypted under the master key: R with F0 and with 0F as its
// third byte.
func spread(r []byte) []byte {
	out := append(append([]byte{}, r...), r...)
	out[2], out[10] = 0xF0, 0x0F
	return out
}

// mask returns what the master key is changed by under VisaXOR: the ATC stands at the end
// of its left half, its complement at the end of the right one.
func (in Input) mask() []byte {
	out := make([]byte, 16)
	binary.BigEndian.PutUint16(out[6:], in.ATC)
	binary.BigEndian.PutUint16(out[14:], ^in.ATC)
	return out
}

// session returns the step to a session key of the master key.
func (m Master) session(d Derivation, in Input, script bool) (derive.Step, error) {
	a := m.key.Algorithm()
	if d == VisaXOR && script && a.TDEA() {
		return derive.Step{Function: derive.XOR, Messages: [][]byte{in.mask()}, Algorithm: key.TDEA2}, nil
	}
	r, err := d.seed(in, script)
	switch {
	case err != nil:
		return derive.Step{}, err
	case a.TDEA():
		return derive.Step{Function: derive.ECB, Messages: [][]byte{spread(r)}, Algorithm: key.TDEA2}, nil
	case a == key.AES128 && d == CSK: // AES(MK)[R | 00…00], experimental
		return derive.Step{Function: derive.ECB, Messages: [][]byte{slices.Concat(r, make([]byte, 8))}, Algorithm: a}, nil
	}
	return derive.Step{}, fault.New(fault.InvalidInput, fmt.Sprintf("a session key of %s is not defined here", a))
}

// MAC refers to the key that computes cryptograms, or the MACs of a script.
func (m Master) MAC(d Derivation, in Input, script bool) (MACKey, error) {
	if m.key.Algorithm().TDEA() {
		k, err := m.retail(d, in, script)
		return MACKey{Retail: k}, err
	}
	s, err := m.session(d, in, script)
	if err != nil {
		return MACKey{}, err
	}
	s.Class = derive.SessionMAC
	return MACKey{AES: m.key.Derive(s)}, nil
}

// retail is MAC under 3DES.
func (m Master) retail(d Derivation, in Input, script bool) (derive.RetailKey, error) {
	if d == MasterItself && !script && m.imk != nil {
		return m.imk.Retail(m.step)
	}
	if d == VisaXOR && script {
		if m.imk == nil {
			return derive.RetailKey{}, fault.New(fault.TokenUnable, "the left half of an ICC master key that the token holds itself cannot be made")
		}
		return m.imk.RetailXOR(m.step, in.mask())
	}
	s, err := m.session(d, in, script)
	if err != nil {
		return derive.RetailKey{}, err
	}
	return m.key.Retail(s)
}

// ENC refers to the key that encrypts the data of a script's commands.
func (m Master) ENC(d Derivation, in Input) (*derive.Key, error) {
	s, err := m.session(d, in, true)
	if err != nil {
		return nil, err
	}
	s.Class = derive.SessionENC
	return m.key.Derive(s), nil
}
