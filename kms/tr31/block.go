package tr31

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // version B is 3DES
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"cardkms/derive"
	"cardkms/kms/secret"
)

// ErrBlock says that a block does not open. Which check failed is not said.
var ErrBlock = errors.New("tr31: the key block does not open under this key block protection key")

var errKBPK = errors.New("tr31: a key block protection key has 16 or 24 bytes for version B, 16, 24 or 32 for version D")

// newCipher returns the cipher of a version. A 2-key 3DES key is K1|K2|K1.
func newCipher(version byte, k []byte) (cipher.Block, error) {
	if version == 'D' {
		b, err := aes.NewCipher(k)
		if err != nil {
			return nil, errKBPK
		}
		return b, nil
	}
	if len(k) == 16 {
		whole := append(append(make([]byte, 0, 24), k...), k[:8]...)
		defer clear(whole)
		k = whole
	}
	b, err := des.NewTripleDESCipher(k) //nolint:gosec // version B
	if err != nil {
		return nil, errKBPK
	}
	return b, nil
}

// cmac is [SP 800-38B] over any block cipher.
func cmac(b cipher.Block, message []byte) []byte {
	size := b.BlockSize()
	head, last, padded := derive.LastBlock(message, size, 1)
	sub := make([]byte, size)
	b.Encrypt(sub, sub)
	derive.Double(sub)
	if padded {
		derive.Double(sub)
	}
	x := make([]byte, size)
	for ; len(head) > 0; head = head[size:] {
		subtle.XORBytes(x, x, head[:size])
		b.Encrypt(x, x)
	}
	subtle.XORBytes(x, x, last)
	subtle.XORBytes(x, x, sub)
	b.Encrypt(x, x)
	return x
}

// tag is the MAC of a block.
func tag(b cipher.Block, header string, content []byte) []byte {
	in := append(append(make([]byte, 0, len(header)+len(content)), header...), content...)
	defer clear(in)
	return cmac(b, in)
}

// keys are the two ciphers of a block.
type keys struct{ enc, mac cipher.Block }

// Purposes of a derived key.
const (
	forEncryption = 0
	forMAC        = 1
)

func deriveKeys(version byte, kbpk secret.Bytes) (k keys, err error) {
	b, err := newCipher(version, kbpk.Reveal())
	if err != nil {
		return k, err
	}
	for purpose, to := range map[uint16]*cipher.Block{forEncryption: &k.enc, forMAC: &k.mac} {
		value := deriveKey(b, version, purpose, kbpk.Len())
		*to, err = newCipher(version, value)
		clear(value)
		if err != nil {
			return k, err
		}
	}
	return k, nil
}

// deriveKey is the counter mode of the package comment.
func deriveKey(b cipher.Block, version byte, purpose uint16, n int) []byte {
	algorithm := uint16(n/8 - 2) // 3DES 0000, 0001
	if version == 'D' {
		algorithm += 2 // AES 0002 to 0004
	}
	var out []byte
	for i := byte(1); len(out) < n; i++ {
		in := binary.BigEndian.AppendUint16([]byte{i}, purpose)
		in = binary.BigEndian.AppendUint16(append(in, 0), algorithm)
		in = binary.BigEndian.AppendUint16(in, uint16(8*n))
		out = append(out, cmac(b, in)...)
	}
	clear(out[n:])
	return out[:n]
}

// Unwrap verifies a block and returns its header and key. The caller wipes the key.
func Unwrap(kbpk secret.Bytes, block string) (Header, secret.Bytes, error) {
	h, chars, err := split(block)
	if err != nil {
		return h, secret.Bytes{}, err
	}
	k, err := deriveKeys(h.Version, kbpk)
	if err != nil {
		return h, secret.Bytes{}, err
	}
	body, err := hex.DecodeString(block[chars:])
	if err != nil {
		return h, secret.Bytes{}, errHeader // excluded by split
	}
	at := len(body) - macBytes(h.Version)
	content, mac := body[:at], body[at:]
	cipher.NewCBCDecrypter(k.enc, mac).CryptBlocks(content, content)
	defer clear(content)
	want := tag(k.mac, block[:chars], content)
	if subtle.ConstantTimeCompare(mac, want) != 1 {
		return Header{}, secret.Bytes{}, ErrBlock
	}
	bits := int(binary.BigEndian.Uint16(content))
	if bits == 0 || bits%8 != 0 || 2+bits/8 > len(content) {
		return Header{}, secret.Bytes{}, ErrBlock
	}
	return h, secret.New(append([]byte{}, content[2:2+bits/8]...)), nil
}

// longest returns the length that the padding makes of a key, so that a block does
// not tell how long its key is.
func (h Header) longest(n int) int {
	switch h.Algorithm {
	case 'T':
		return max(n, 24)
	case 'A':
		return max(n, 32)
	}
	return n
}

// Wrap makes a block of a key. The KBPK must be as strong as the key.
func Wrap(kbpk secret.Bytes, h Header, k secret.Bytes) (string, error) {
	if k.Len() == 0 || k.Len() > 1024 {
		return "", fmt.Errorf("tr31: a key of %d bytes", k.Len())
	}
	if (h.Algorithm == 'A' || h.Algorithm == 'T') && h.KeyAlgorithm(k.Len()) == "" {
		return "", fmt.Errorf("tr31: no key of algorithm %c has %d bytes", h.Algorithm, k.Len())
	}
	if kek := protection(h.Version, kbpk.Len()); kek < h.KeyAlgorithm(k.Len()).Strength() {
		return "", errors.New("tr31: the key block protection key is weaker than the key")
	}
	ks, err := deriveKeys(h.Version, kbpk)
	if err != nil {
		return "", err
	}
	size := cipherBlock(h.Version)
	content := make([]byte, (2+h.longest(k.Len())+size-1)/size*size)
	defer clear(content)
	binary.BigEndian.PutUint16(content, uint16(8*k.Len()))
	n := 2 + copy(content[2:], k.Reveal())
	_, _ = rand.Read(content[n:])
	header, err := h.encode(len(content))
	if err != nil {
		return "", err
	}
	mac := tag(ks.mac, header, content)
	encrypted := make([]byte, len(content))
	cipher.NewCBCEncrypter(ks.enc, mac).CryptBlocks(encrypted, content)
	return header + strings.ToUpper(hex.EncodeToString(append(encrypted, mac...))), nil
}

// protection returns the bits of security of a KBPK of n bytes.
func protection(version byte, n int) int {
	h := Header{Algorithm: 'A'}
	if version == 'B' {
		h.Algorithm = 'T'
	}
	return h.KeyAlgorithm(n).Strength()
}
