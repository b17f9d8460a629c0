package cardsim

import "errors"

// command is a parsed C-APDU.
type command struct {
	cla, ins, p1, p2 byte
	data             []byte
	le               int  // bytes expected in the answer; 0 when the command has no Le field
	extended         bool // length fields of three (Lc) and two (Le) bytes
}

var errLength = errors.New("cardsim: inconsistent length fields")

// parseCommand reads the seven forms of a C-APDU: case 1, and cases 2 to 4 with short or extended length (ISO/IEC 7816-3,
// C-APDU cases). A length field that does not account for every byte is an error, because a lenient parser would let two
// readings of one command pass the same MAC.
func parseCommand(b []byte) (command, error) {
	if len(b) < 4 {
		return command{}, errLength
	}
	c := command{cla: b[0], ins: b[1], p1: b[2], p2: b[3]}
	body := b[4:]
	switch {
	case len(body) == 0:
		return c, nil
	case len(body) == 1:
		c.le = expected(int(body[0]), 0x100)
		return c, nil
	case body[0] == 0:
		return parseExtended(c, body)
	}
	n := int(body[0])
	switch len(body) {
	case 1 + n:
	case 2 + n:
		c.le = expected(int(body[1+n]), 0x100)
	default:
		return command{}, errLength
	}
	c.data = body[1 : 1+n]
	return c, nil
}

// parseExtended reads what follows the header when its first byte is 00 and more bytes follow.
func parseExtended(c command, body []byte) (command, error) {
	if len(body) < 3 {
		return command{}, errLength
	}
	c.extended = true
	n := int(body[1])<<8 | int(body[2])
	if len(body) == 3 {
		c.le = expected(n, 0x10000)
		return c, nil
	}
	switch {
	case n == 0:
		return command{}, errLength
	case len(body) == 3+n:
	case len(body) == 5+n:
		c.le = expected(int(body[3+n])<<8|int(body[4+n]), 0x10000)
	default:
		return command{}, errLength
	}
	c.data = body[3 : 3+n]
	return c, nil
}

// expected returns the meaning of an Le field: zero stands for the greatest number.
func expected(le, zero int) int {
	if le == 0 {
		return zero
	}
	return le
}

// lengthField returns Lc for n bytes of data in the form of this command: one byte, or 00 and two bytes.
func (c command) lengthField(n int) []byte {
	if c.extended {
		return []byte{0, byte(n >> 8), byte(n)}
	}
	return []byte{byte(n)}
}

// encode is the inverse of parseCommand.
func (c command) encode() []byte {
	b := []byte{c.cla, c.ins, c.p1, c.p2}
	if len(c.data) > 0 {
		b = append(append(b, c.lengthField(len(c.data))...), c.data...)
	}
	switch {
	case c.le == 0:
		return b
	case !c.extended:
		return append(b, byte(c.le))
	case len(c.data) == 0:
		b = append(b, 0)
	}
	return append(b, byte(c.le>>8), byte(c.le))
}

// word is a status word, SW1 in the high byte.
type word uint16

// Status words (ISO/IEC 7816-4 and GlobalPlatform).
const (
	swOK           word = 0x9000
	swAuthFailed   word = 0x6300 // host cryptogram wrong
	swMemory       word = 0x6581 // memory does not read back what was written
	swLength       word = 0x6700
	swChannel      word = 0x6881 // logical channel not supported
	swSecurity     word = 0x6982 // security status not satisfied, or secure messaging wrong
	swBlocked      word = 0x6983
	swConditions   word = 0x6985
	swMAC          word = 0x6988 // MAC of an update object wrong
	swData         word = 0x6A80
	swNotFound     word = 0x6A82
	swFull         word = 0x6A84
	swParameters   word = 0x6A86
	swReference    word = 0x6A88
	swOffset       word = 0x6B00
	swInstruction  word = 0x6D00
	swClass        word = 0x6E00
	swPINTriesLeft word = 0x63C0 // low digit: tries left
)

// response joins data and status word to an R-APDU.
func response(data []byte, sw word) []byte {
	return append(append([]byte{}, data...), byte(sw>>8), byte(sw))
}
