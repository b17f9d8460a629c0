package derive

import "cardkms/kms/key"

// BlockSize returns the cipher's block length in bytes: 8 for 3DES, 16 for AES.
func BlockSize(a key.Algorithm) int {
	if a.TDEA() {
		return 8
	}
	return 16
}

// Pad2 appends padding method 2 of [9797-1] ISO/IEC 9797-1:2011, Section 6.3.3:
// 80, then zeros up to a multiple of size; at least one byte.
func Pad2(data []byte, size int) []byte {
	n := size - len(data)%size
	out := make([]byte, len(data)+n)
	copy(out, data)
	out[len(data)] = 0x80
	return out
}

// Inputs returns the PRF input of each output block of a CMACCounter or
// CMACTwoBlocks step, for a parent key of algorithm prf: as many as the derived
// key needs.
func (s Step) Inputs(prf key.Algorithm) [][]byte {
	if s.Function != CMACCounter {
		return s.Messages
	}
	n := (s.Algorithm.Size() + BlockSize(prf) - 1) / BlockSize(prf)
	out := make([][]byte, n)
	for i := range out {
		// [SP 800-108], Section 4.1: the counter is one byte, from 1.
		m := append(make([]byte, 0, len(s.Before)+1+len(s.After)), s.Before...)
		out[i] = append(append(m, byte(i+1)), s.After...)
	}
	return out
}

// LastBlock splits a CMAC input into the blocks that are chained first and the
// last block before its subkey is added, and says which subkey that is:
// [SP 800-38B] NIST SP 800-38B, Section 6.2, K1 for a complete last block, K2
// for a padded one. blocks is the least number of blocks of the padded message:
// 1 for plain CMAC, 2 for [AN10922].
func LastBlock(message []byte, size, blocks int) (head, last []byte, padded bool) {
	full := len(message) >= size*blocks && len(message)%size == 0 && len(message) > 0
	m := message
	if !full {
		m = Pad2(message, size)
		if short := size*blocks - len(m); short > 0 {
			m = append(m, make([]byte, short)...)
		}
	}
	cut := len(m) - size
	return m[:cut], m[cut:], !full
}

// Double multiplies by x in GF(2^128), or GF(2^64) for an 8-byte block:
// [SP 800-38B], Section 6.1, from E(0) to K1 and from K1 to K2. It works in
// place and in constant time.
func Double(b []byte) {
	r := byte(0x87)
	if len(b) == 8 {
		r = 0x1B
	}
	carry := b[0] >> 7
	for i := range b {
		next := byte(0)
		if i+1 < len(b) {
			next = b[i+1] >> 7
		}
		b[i] = b[i]<<1 | next
	}
	b[len(b)-1] ^= r * carry
}
