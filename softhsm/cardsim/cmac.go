package cardsim

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// blockCipher returns AES under key. Key sizes are checked when the card is made, so an error here is a defect.
func blockCipher(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("cardsim: " + err.Error())
	}
	return b
}

// cmac computes AES-CMAC over the concatenation of parts (SP 800-38B, Section 6.2).
func cmac(key []byte, parts ...[]byte) []byte {
	b := blockCipher(key)
	var x [16]byte
	var pending []byte
	for _, p := range parts {
		pending = append(pending, p...)
	}
	for ; len(pending) > 16; pending = pending[16:] {
		subtle.XORBytes(x[:], x[:], pending[:16])
		b.Encrypt(x[:], x[:])
	}
	// The last block is masked with K1 when complete, padded and masked with K2 when not (SP 800-38B, Section 6.2).
	var l [16]byte
	b.Encrypt(l[:], l[:])
	mask := double(l)
	last := make([]byte, 16)
	if copy(last, pending) < 16 {
		last[len(pending)] = 0x80
		mask = double(mask)
	}
	subtle.XORBytes(x[:], x[:], last)
	subtle.XORBytes(x[:], x[:], mask[:])
	b.Encrypt(x[:], x[:])
	return x[:]
}

// double multiplies by x in GF(2^128) (SP 800-38B, Section 6.1).
func double(in [16]byte) (out [16]byte) {
	var carry byte
	for i := 15; i >= 0; i-- {
		out[i] = in[i]<<1 | carry
		carry = in[i] >> 7
	}
	out[15] ^= 0x87 * carry
	return out
}

// kdf is SP 800-108 counter mode with AES-CMAC and the counter between separator, length and context, as [AmdD],
// Section 4.1.5 lays it out. The label has 12 bytes; size is the length of the result in bytes.
func kdf(key []byte, label [12]byte, size int, context []byte) []byte {
	bits := size * 8
	var out []byte
	for i := byte(1); len(out) < size; i++ {
		out = append(out, cmac(key, label[:], []byte{0x00, byte(bits >> 8), byte(bits), i}, context)...)
	}
	return out[:size]
}

// scp03Label is the label of [AmdD], Section 4.1.5: eleven zero bytes and the derivation constant.
func scp03Label(constant byte) (label [12]byte) {
	label[11] = constant
	return label
}

// equal compares MACs and cryptograms without telling by its duration where they differ.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// pad appends 80 and zero bytes up to the next block boundary (ISO/IEC 9797-1, padding method 2).
func pad(b []byte) []byte {
	b = append(append([]byte{}, b...), 0x80)
	return append(b, make([]byte, (16-len(b)%16)%16)...)
}

// unpad removes the padding of method 2. It is called only on data whose MAC was right.
func unpad(b []byte) ([]byte, bool) {
	for i := len(b) - 1; i >= 0; i-- {
		switch b[i] {
		case 0x80:
			return b[:i], true
		case 0x00:
		default:
			return nil, false
		}
	}
	return nil, false
}

// cbcEncrypt encrypts whole blocks with AES-CBC; the initial chaining value is the encrypted counter block, as SCP03 and
// CUP-1 both have it ([AmdD], Sections 6.2.6 and 6.2.7).
func cbcEncrypt(key []byte, counter [16]byte, data []byte) []byte {
	b := blockCipher(key)
	b.Encrypt(counter[:], counter[:])
	out := make([]byte, len(data))
	cipher.NewCBCEncrypter(b, counter[:]).CryptBlocks(out, data)
	return out
}

// cbcDecrypt is the inverse of cbcEncrypt. It reports false when data is not a positive number of whole blocks.
func cbcDecrypt(key []byte, counter [16]byte, data []byte) ([]byte, bool) {
	if len(data) == 0 || len(data)%16 != 0 {
		return nil, false
	}
	b := blockCipher(key)
	b.Encrypt(counter[:], counter[:])
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(b, counter[:]).CryptBlocks(out, data)
	return out, true
}

// counterBlock is n as 16 bytes, big endian.
func counterBlock(n uint64) (b [16]byte) {
	for i := 15; n > 0; i, n = i-1, n>>8 {
		b[i] = byte(n)
	}
	return b
}
