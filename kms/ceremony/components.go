package ceremony

import (
	"encoding/hex"
	"math/bits"

	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// ReadComponent decodes what a custodian typed into room, which has the key's length.
// Spaces between groups of digits are allowed, as sheets print them. It says nothing
// about the digits.
func ReadComponent(line []byte, a key.Algorithm, room secret.Bytes) error {
	digits := make([]byte, 0, 2*a.Size())
	defer func() { clear(digits[:cap(digits)]) }()
	for _, c := range line {
		if c == ' ' {
			continue
		}
		if len(digits) == cap(digits) {
			return invalid("a component of a %s key has %d hexadecimal digits", a, 2*a.Size())
		}
		digits = append(digits, c)
	}
	if n, err := hex.Decode(room.Reveal(), digits); err != nil || n != a.Size() {
		room.Wipe()
		return invalid("a component of a %s key has %d hexadecimal digits", a, 2*a.Size())
	}
	if a.TDEA() && !oddParity(room.Reveal()) {
		room.Wipe()
		return invalid("a byte of the component has even parity; a component of a 3DES key has odd parity in each byte, so something was mistyped")
	}
	return nil
}

func oddParity(b []byte) bool {
	for _, x := range b {
		if bits.OnesCount8(x)%2 == 0 {
			return false
		}
	}
	return true
}

// Combine writes the sum of components to sum and refuses a key that protects nothing.
// The sum of two components with odd parity has even parity, so the parity of a 3DES
// key is set at the end.
func Combine(a key.Algorithm, sum secret.Bytes, components ...secret.Bytes) error {
	out := sum.Reveal()
	clear(out)
	for _, c := range components {
		for i, x := range c.Reveal() {
			out[i] ^= x
		}
	}
	if a.TDEA() {
		for i, x := range out {
			out[i] = x&0xFE | byte(1-bits.OnesCount8(x&0xFE)%2)
		}
	}
	if why := weakness(a, out); why != "" {
		sum.Wipe()
		return invalid("the components give %s; custodians must not enter the same one", why)
	}
	return nil
}

// weakness says why a value is no key, "" if it is one.
func weakness(a key.Algorithm, k []byte) string {
	if !a.TDEA() {
		var or byte
		for _, x := range k {
			or |= x
		}
		if or == 0 {
			return "a key of zeros"
		}
		return ""
	}
	for at := 0; at < len(k); at += 8 {
		part := [8]byte(k[at:])
		if weakDES[part] {
			return "a weak DES key"
		}
		for other := range at / 8 {
			if part == [8]byte(k[8*other:]) {
				return "a 3DES key with equal parts, which is a DES key"
			}
		}
	}
	return ""
}

// weakDES are the weak and semi-weak keys of DES that [SP 800-67] NIST SP 800-67
// Revision 2 lists.
var weakDES = func() map[[8]byte]bool {
	out := map[[8]byte]bool{}
	for _, s := range []string{
		"0101010101010101", "FEFEFEFEFEFEFEFE", "E0E0E0E0F1F1F1F1", "1F1F1F1F0E0E0E0E",
		"011F011F010E010E", "1F011F010E010E01", "01E001E001F101F1", "E001E001F101F101",
		"01FE01FE01FE01FE", "FE01FE01FE01FE01", "1FE01FE00EF10EF1", "E01FE01FF10EF10E",
		"1FFE1FFE0EFE0EFE", "FE1FFE1FFE0EFE0E", "E0FEE0FEF1FEF1FE", "FEE0FEE0FEF1FEF1",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("ceremony: " + s + " is not hexadecimal")
		}
		out[[8]byte(b)] = true
	}
	return out
}()
