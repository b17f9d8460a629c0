package tr31

import (
	"bytes"
	"fmt"

	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// CheckValue computes a key check value by a method, so that the key of a block can be
// compared with what its receiver computes.
func CheckValue(m key.KCVMethod, k secret.Bytes) (key.KCV, error) {
	version, in := byte('D'), make([]byte, 16)
	switch m {
	case key.KCVTDEA:
		version, in = 'B', make([]byte, 8)
	case key.KCVGPAES:
		in = bytes.Repeat([]byte{0x01}, 16)
	case key.KCVCMAC:
	default:
		return key.KCV{}, fmt.Errorf("tr31: no check value is computed by %q", m)
	}
	b, err := newCipher(version, k.Reveal())
	if err != nil {
		return key.KCV{}, fmt.Errorf("tr31: a key of %d bytes has no check value by %s", k.Len(), m)
	}
	if m == key.KCVCMAC {
		in = cmac(b, in)
	} else {
		b.Encrypt(in, in)
	}
	defer clear(in)
	return key.KCV{Method: m, Value: fmt.Sprintf("%X", in[:3])}, nil
}
