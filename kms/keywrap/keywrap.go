// Package keywrap wraps keys with AES in software, on the sender's side of a key
// transport: AES-KW of [RFC 3394] AES Key Wrap Algorithm and AES-KWP of [RFC 5649]
// AES Key Wrap with Padding Algorithm, which are KW and KWP of NIST SP 800-38F and
// CKM_AES_KEY_WRAP and CKM_AES_KEY_WRAP_PAD of PKCS #11.
//
// The key-encryption key and the key are clear in this process's memory. The service
// never does that: its token unwraps. This package is for tools and tests. It leaves
// out keys longer than 4,096 bytes. Functions are pure and safe for concurrent use;
// the caller wipes what they return.
package keywrap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"cardkms/kms/secret"
)

// bytesMax bounds a key.
const bytesMax = 4096

// ErrWrapped says that a wrapped key does not open. Which check failed is not said.
var ErrWrapped = errors.New("keywrap: the wrapped key does not open under this key-encryption key")

// iv is the initial value of [RFC 3394], Section 2.2.3.1.
var iv = [8]byte{0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6}

// Wrap is AES-KW. The key has a multiple of 8 bytes, at least 16.
func Wrap(kek, key secret.Bytes) ([]byte, error) {
	if n := key.Len(); n < 16 || n%8 != 0 || n > bytesMax {
		return nil, fmt.Errorf("keywrap: a key of %d bytes; AES-KW takes whole blocks of 8, two at least", n)
	}
	b, err := aes.NewCipher(kek.Reveal())
	if err != nil {
		return nil, fmt.Errorf("keywrap: %w", err)
	}
	return wrap(b, iv, key.Reveal()), nil
}

// wrap is the index-based wrapping process of [RFC 3394], Section 2.2.1.
func wrap(b cipher.Block, a [8]byte, p []byte) []byte {
	n := len(p) / 8
	out := make([]byte, 8+len(p))
	copy(out[8:], p)
	var block [16]byte
	copy(block[:8], a[:])
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(block[8:], out[8*i:])
			b.Encrypt(block[:], block[:])
			copy(out[8*i:], block[8:])
			mix(block[:8], n*j+i)
		}
	}
	copy(out, block[:8])
	return out
}

// mix is A = A xor t.
func mix(a []byte, t int) {
	binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(a)^uint64(t))
}

// unwrap is the index-based unwrapping process of [RFC 3394], Section 2.2.2. It
// returns A, which the caller compares, and the key.
func unwrap(b cipher.Block, c []byte) (a [8]byte, p []byte) {
	n := len(c)/8 - 1
	p = append([]byte{}, c[8:]...)
	var block [16]byte
	copy(block[:8], c)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			mix(block[:8], n*j+i)
			copy(block[8:], p[8*i-8:])
			b.Decrypt(block[:], block[:])
			copy(p[8*i-8:], block[8:])
		}
	}
	copy(a[:], block[:8])
	clear(block[:])
	return a, p
}

// Unwrap inverts Wrap.
func Unwrap(kek secret.Bytes, wrapped []byte) (secret.Bytes, error) {
	b, err := aes.NewCipher(kek.Reveal())
	if err != nil || len(wrapped) < 24 || len(wrapped)%8 != 0 || len(wrapped) > bytesMax+8 {
		return secret.Bytes{}, ErrWrapped
	}
	a, p := unwrap(b, wrapped)
	if subtle.ConstantTimeCompare(a[:], iv[:]) != 1 {
		clear(p)
		return secret.Bytes{}, ErrWrapped
	}
	return secret.New(p), nil
}

// aiv is the constant half of the alternative initial value of [RFC 5649], Section 3.
var aiv = [4]byte{0xA6, 0x59, 0x59, 0xA6}

// WrapPad is AES-KWP ([RFC 5649], Section 4.1). The key has at least one byte.
func WrapPad(kek, key secret.Bytes) ([]byte, error) {
	n := key.Len()
	if n == 0 || n > bytesMax {
		return nil, fmt.Errorf("keywrap: a key of %d bytes", n)
	}
	b, err := aes.NewCipher(kek.Reveal())
	if err != nil {
		return nil, fmt.Errorf("keywrap: %w", err)
	}
	var a [8]byte
	copy(a[:], aiv[:])
	binary.BigEndian.PutUint32(a[4:], uint32(n))
	p := make([]byte, (n+7)/8*8)
	defer clear(p)
	copy(p, key.Reveal())
	if len(p) == 8 {
		out := append(a[:], p...)
		b.Encrypt(out, out)
		return out, nil
	}
	return wrap(b, a, p), nil
}

// UnwrapPad inverts WrapPad ([RFC 5649], Section 4.2).
func UnwrapPad(kek secret.Bytes, wrapped []byte) (secret.Bytes, error) {
	b, err := aes.NewCipher(kek.Reveal())
	if err != nil || len(wrapped) < 16 || len(wrapped)%8 != 0 || len(wrapped) > bytesMax+8 {
		return secret.Bytes{}, ErrWrapped
	}
	var a [8]byte
	var p []byte
	if len(wrapped) == 16 {
		block := make([]byte, 16)
		b.Decrypt(block, wrapped)
		copy(a[:], block)
		p = block[8:]
	} else {
		a, p = unwrap(b, wrapped)
	}
	n := int(binary.BigEndian.Uint32(a[4:]))
	ok := subtle.ConstantTimeCompare(a[:4], aiv[:])
	if n > len(p) || n <= len(p)-8 {
		ok, n = 0, len(p)
	}
	var padding byte
	for _, x := range p[n:] {
		padding |= x
	}
	if ok&subtle.ConstantTimeByteEq(padding, 0) != 1 {
		clear(p)
		return secret.Bytes{}, ErrWrapped
	}
	return secret.New(p[:n]), nil
}
