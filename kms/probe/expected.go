package probe

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"

	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

// kcvOf computes the check value of a vector's key outside the token. The value
// is public: it stands in the vector file.
func kcvOf(a key.Algorithm, value []byte) string {
	var b cipher.Block
	var err error
	in := bytes.Repeat([]byte{1}, 16)
	if a.TDEA() {
		in = make([]byte, 8)
		b, err = des.NewTripleDESCipher(append(bytes.Clone(value), value[:24-len(value)]...))
	} else {
		b, err = aes.NewCipher(value)
	}
	if err != nil {
		return "no key of type " + string(a)
	}
	b.Encrypt(in, in)
	return apdu.Hex(in[:3])
}
