// Package diversify computes the static keys of one card from a master key.
//
// The input is the key diversification data (KDD), 10 bytes, the first field of
// a card's answer to INITIALIZE UPDATE; for AN10922 any 1 to 31 bytes. t is the
// key's purpose: 1 ENC, 2 MAC, 3 DEK, 4 the update key K-UPD.
//
//	none     no derivation: the root is the card's key
//	visa2    3DES-ECB(MK, x | F0 t | x | 0F t), x = KDD[0..1] | KDD[4..7]
//	emv      the same, x = KDD[4..9]             (EMV CPS 1.1)
//	visa     the same, x = KDD[0..3] | KDD[8..9] (GlobalPlatformPro's "visa")
//	kdf3     CMAC(MK, i | 00 00 00 t 00 | KDD), i = 1, 2 (GlobalPlatformPro's "kdf3")
//	an10922  NXP AN10922; for card keys M = KDD | t
//
// and templates for whatever else a card product has, see template.go.
//
// Sources: [CPS] EMV Card Personalization Specification 1.1 for emv; the other
// layouts are those of GlobalPlatformPro and libfreefare, against whose numbers
// the tests compare. 3DES results keep their parity bits as computed; a token
// may set odd parity, which the cipher ignores.
//
// As an example, for KDD 00010203040506070809 and kdf3 the one input block of
// K-MAC under AES-128 is 01 0000000200 00010203040506070809.
package diversify

import (
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Method names a diversification.
type Method string

// The methods.
const (
	None    Method = "none"
	VISA2   Method = "visa2"
	EMV     Method = "emv"
	VISA    Method = "visa"
	KDF3    Method = "kdf3"
	AN10922 Method = "an10922"
)

// Methods returns every method that has a name.
func Methods() []Method { return []Method{None, VISA2, EMV, VISA, KDF3, AN10922} }

// KDDBytes is the length of the key diversification data.
const KDDBytes = 10

// Purpose is t of the layouts above.
type Purpose byte

// The purposes.
const (
	ENC    Purpose = 1
	MAC    Purpose = 2
	DEK    Purpose = 3
	Update Purpose = 4
)

// String returns the name of a purpose in lower case.
func (p Purpose) String() string {
	return map[Purpose]string{ENC: "enc", MAC: "mac", DEK: "dek", Update: "update"}[p]
}

// Target says which key of the card to derive.
type Target struct {
	Purpose   Purpose
	Class     derive.Class
	Algorithm key.Algorithm // of the card key
}

// Card returns the key of one card. kdd has KDDBytes bytes. It refuses with
// fault.InvalidInput a method, a master and a card key that do not fit together.
func Card(m Method, master *derive.Key, kdd []byte, to Target) (*derive.Key, error) {
	if len(kdd) != KDDBytes {
		return nil, fault.New(fault.InvalidInput, fmt.Sprintf("key diversification data has %d bytes", KDDBytes))
	}
	if err := Fits(m, master.Algorithm(), to.Algorithm); err != nil {
		return nil, err
	}
	s := derive.Step{Class: to.Class, Algorithm: to.Algorithm}
	switch m {
	case None:
		return master, nil
	case VISA2, EMV, VISA:
		s.Function, s.Messages = derive.ECB, [][]byte{tdeaBlocks(m, kdd, to.Purpose)}
	case KDF3:
		s.Function = derive.CMACCounter
		s.After = append([]byte{0, 0, 0, byte(to.Purpose), 0}, kdd...)
	case AN10922:
		return FromInput(master, append(append([]byte{}, kdd...), byte(to.Purpose)), to)
	default:
		t, err := parseTemplate(m)
		if err != nil {
			return nil, err
		}
		s = t.step(kdd, to)
	}
	return master.Derive(s), nil
}

func tdeaBlocks(m Method, kdd []byte, t Purpose) []byte {
	var x []byte
	switch m {
	case VISA2:
		x = append(append(x, kdd[0:2]...), kdd[4:8]...)
	case EMV:
		x = append(x, kdd[4:10]...)
	case VISA:
		x = append(append(x, kdd[0:4]...), kdd[8:10]...)
	}
	out := append(append([]byte{}, x...), 0xF0, byte(t))
	return append(append(out, x...), 0x0F, byte(t))
}

// constants of [AN10922], Sections 2.2 to 2.4: one per output block. AES-192 is
// missing because its key is the XOR of two overlapping results, which no
// PKCS#11 token computes inside.
var constants = map[key.Algorithm][]byte{
	key.AES128: {0x01}, key.AES256: {0x41, 0x42},
	key.TDEA2: {0x21, 0x22}, key.TDEA3: {0x31, 0x32, 0x33},
}

// FromInput returns the key that [AN10922] derives from the diversification
// input m, 1 to 31 bytes for AES and 1 to 15 for 3DES. The derived key has the
// master's algorithm.
func FromInput(master *derive.Key, m []byte, to Target) (*derive.Key, error) {
	if err := Fits(AN10922, master.Algorithm(), to.Algorithm); err != nil {
		return nil, err
	}
	if max := 2*derive.BlockSize(to.Algorithm) - 1; len(m) < 1 || len(m) > max {
		return nil, fault.New(fault.InvalidInput, fmt.Sprintf("an AN10922 input has 1 to %d bytes", max))
	}
	s := derive.Step{Function: derive.CMACTwoBlocks, Class: to.Class, Algorithm: to.Algorithm}
	for _, c := range constants[to.Algorithm] {
		s.Messages = append(s.Messages, append([]byte{c}, m...))
	}
	return master.Derive(s), nil
}

// Fits checks that a master of one algorithm can give card keys of another by
// this method.
func Fits(m Method, master, card key.Algorithm) error {
	ok := false
	switch m {
	case None:
		ok = master == card
	case VISA2, EMV, VISA:
		// The 16 bytes of 3DES output serve as a 2-key 3DES or an AES-128 key.
		ok = master == key.TDEA2 && (card == key.TDEA2 || card == key.AES128)
	case KDF3:
		ok = !master.TDEA() && !card.TDEA() && master.Size() != 0 && card.Size() != 0
	case AN10922:
		if master == key.AES192 {
			return fault.New(fault.TokenUnable, "AN10922 for AES-192 joins two results by XOR, which a token cannot do inside")
		}
		ok = master == card && constants[card] != nil
	default:
		t, err := parseTemplate(m)
		if err != nil {
			return err
		}
		ok = t.fits(master, card)
	}
	if !ok {
		return fault.New(fault.InvalidInput, fmt.Sprintf("%s does not derive %s card keys from a %s master", m, card, master))
	}
	return nil
}
