package hsm

import "bytes"

// weakTDEA reports whether a 3DES key has two neighbouring parts that are equal, which
// makes it DES, or a part that is a weak key of DES: [SP 800-67] NIST SP 800-67 Revision
// 2, Sections 3.3.1 and 3.3.2. Parity bits do not count.
func weakTDEA(value []byte) bool {
	weak := [][]byte{bytes.Repeat([]byte{0x01}, 8), bytes.Repeat([]byte{0xFE}, 8), unhex("E0E0E0E0F1F1F1F1"), unhex("1F1F1F1F0E0E0E0E")}
	for ; len(value) >= 8; value = value[8:] {
		if len(value) >= 16 && sameDES(value[:8], value[8:16]) {
			return true
		}
		for _, w := range weak {
			if sameDES(value[:8], w) {
				return true
			}
		}
	}
	return false
}

// sameDES compares two DES keys without their parity bits, in constant time.
func sameDES(a, b []byte) bool {
	var differ byte
	for i := range a {
		differ |= (a[i] ^ b[i]) &^ 1
	}
	return differ == 0
}
