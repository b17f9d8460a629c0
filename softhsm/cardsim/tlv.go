package cardsim

import "errors"

var errTLV = errors.New("cardsim: not the expected BER-TLV")

// appendTLV appends a BER-TLV with the shortest length form. No tag of CUP-1 needs a second byte.
func appendTLV(b []byte, tag byte, value []byte) []byte {
	b = append(b, tag)
	switch n := len(value); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, value...)
}

// readTLV splits b into the value of its first BER-TLV, which must have this tag, and the rest. A length that has a shorter
// form is refused: an object has exactly one encoding.
func readTLV(b []byte, tag byte) (value, rest []byte, err error) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, errTLV
	}
	n, b := int(b[1]), b[2:]
	switch {
	case n < 0x80:
	case n == 0x81 && len(b) >= 1 && b[0] >= 0x80:
		n, b = int(b[0]), b[1:]
	case n == 0x82 && len(b) >= 2 && b[0] != 0:
		n, b = int(b[0])<<8|int(b[1]), b[2:]
	default:
		return nil, nil, errTLV
	}
	if n > len(b) {
		return nil, nil, errTLV
	}
	return b[:n], b[n:], nil
}

// readFixed is readTLV for a value of known size.
func readFixed(b []byte, tag byte, size int) (value, rest []byte, err error) {
	value, rest, err = readTLV(b, tag)
	if err == nil && len(value) != size {
		err = errTLV
	}
	return value, rest, err
}
