// Package apdu reads and writes command and response APDUs, status words and
// BER-TLV objects.
//
// Commands follow [7816-3] ISO/IEC 7816-3:2006, Section 12: a header of four
// bytes, then
//
//	case 1   —                    case 3   Lc data
//	case 2   Le                   case 4   Lc data Le
//
// Short form: Lc and Le are one byte, Le 00 means 256. Extended form: Lc is
// 00 hh ll; Le is hh ll after data and 00 hh ll without, 0000 means 65,536.
// A command keeps the form in which it was read, because a MAC covers Lc as it
// is transmitted. For example 80 F2 40 00 02 4F00 00 is a case 4 command with
// two bytes of data that asks for up to 256 bytes.
//
// BER-TLV follows [8825-1] ISO/IEC 8825-1 restricted to tags of one or two bytes
// and minimal definite lengths; every other encoding is refused, so that one
// object has one encoding.
//
// Parsers never panic and never keep a reference into a caller's slice.
package apdu

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"cardkms/kms/fault"
)

// Limits of the two forms, in bytes.
const (
	ShortDataMax    = 255
	ExtendedDataMax = 65535
	ShortNeMax      = 256
	ExtendedNeMax   = 65536
)

// Command is a C-APDU.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	Ne               int  // largest number of response bytes asked for; 0 asks for none
	Extended         bool // Lc and Le in extended form
}

// ParseCommand parses one whole C-APDU of 4 to 65,544 bytes. It refuses with
// fault.InvalidInput what is truncated, overlong or in no form of [7816-3].
func ParseCommand(b []byte) (Command, error) {
	if len(b) < 4 {
		return Command{}, fault.New(fault.InvalidInput, "a command APDU has at least 4 bytes")
	}
	c := Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}
	body := b[4:]
	switch {
	case len(body) == 0: // case 1
		return c, nil
	case len(body) == 1: // case 2, short
		c.Ne = shortNe(body[0])
		return c, nil
	case body[0] != 0:
		return c.shortBody(body)
	}
	return c.extendedBody(body)
}

func shortNe(le byte) int {
	if le == 0 {
		return ShortNeMax
	}
	return int(le)
}

func (c Command) shortBody(body []byte) (Command, error) {
	lc := int(body[0])
	switch len(body) - 1 - lc {
	case 0: // case 3
	case 1: // case 4
		c.Ne = shortNe(body[len(body)-1])
	default:
		return Command{}, errLength
	}
	c.Data = bytes.Clone(body[1 : 1+lc])
	return c, nil
}

var errLength = fault.New(fault.InvalidInput, "the command APDU's length does not fit its Lc and Le")

func (c Command) extendedBody(body []byte) (Command, error) {
	if len(body) < 3 {
		return Command{}, errLength
	}
	c.Extended = true
	n := int(binary.BigEndian.Uint16(body[1:]))
	if len(body) == 3 { // case 2: the two bytes are Le
		c.Ne = extendedNe(n)
		return c, nil
	}
	switch {
	case n == 0:
		return Command{}, errLength
	case len(body) == 3+n: // case 3
	case len(body) == 3+n+2: // case 4
		c.Ne = extendedNe(int(binary.BigEndian.Uint16(body[3+n:])))
	default:
		return Command{}, errLength
	}
	c.Data = bytes.Clone(body[3 : 3+n])
	return c, nil
}

func extendedNe(le int) int {
	if le == 0 {
		return ExtendedNeMax
	}
	return le
}

// Header returns CLA INS P1 P2.
func (c Command) Header() []byte { return []byte{c.CLA, c.INS, c.P1, c.P2} }

// Lc returns Lc for n data bytes as this command transmits it: 1 byte, or 3
// bytes in the extended form; nothing for n = 0.
func (c Command) Lc(n int) []byte {
	switch {
	case n == 0:
		return nil
	case c.Extended:
		return []byte{0, byte(n >> 8), byte(n)}
	}
	return []byte{byte(n)}
}

// DataMax returns how many data bytes the command's form can carry.
func (c Command) DataMax() int {
	if c.Extended {
		return ExtendedDataMax
	}
	return ShortDataMax
}

// Bytes encodes the command. It panics when data or Ne exceed the form, which
// the constructors and ParseCommand exclude.
func (c Command) Bytes() []byte {
	neMax := ShortNeMax
	if c.Extended {
		neMax = ExtendedNeMax
	}
	if len(c.Data) > c.DataMax() || c.Ne > neMax {
		panic("apdu: the command does not fit its form")
	}
	out := append(c.Header(), c.Lc(len(c.Data))...)
	out = append(out, c.Data...)
	switch {
	case c.Ne == 0:
		return out
	case !c.Extended:
		return append(out, byte(c.Ne))
	case len(c.Data) == 0:
		out = append(out, 0)
	}
	return append(out, byte(c.Ne>>8), byte(c.Ne))
}

// SW is a status word.
type SW uint16

// Success is 9000.
const Success SW = 0x9000

// Warning reports 62xx and 63xx, which end a command that did its work.
func (s SW) Warning() bool { return s>>8 == 0x62 || s>>8 == 0x63 }

// String formats the status word as four upper-case hex digits.
func (s SW) String() string { return fmt.Sprintf("%04X", uint16(s)) }

// Response is an R-APDU.
type Response struct {
	Data []byte
	SW   SW
}

// ParseResponse parses an R-APDU of 2 to 65,538 bytes.
func ParseResponse(b []byte) (Response, error) {
	if len(b) < 2 || len(b) > ExtendedNeMax+2 {
		return Response{}, fault.New(fault.InvalidInput, "a response APDU has 2 to 65,538 bytes")
	}
	n := len(b) - 2
	return Response{Data: bytes.Clone(b[:n]), SW: SW(binary.BigEndian.Uint16(b[n:]))}, nil
}

// Bytes encodes the response.
func (r Response) Bytes() []byte {
	return binary.BigEndian.AppendUint16(bytes.Clone(r.Data), uint16(r.SW))
}

// Hex formats bytes as the API shows card data: upper case, no spaces.
func Hex(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }

// ErrTLV is the reason why bytes are not one strict BER-TLV encoding.
var ErrTLV = errors.New("apdu: not a BER-TLV object in its minimal encoding")

// Tag is a BER tag of one or two bytes, e.g. 0xE1 or 0x9F7F.
type Tag uint16

// TLV is one object.
type TLV struct {
	Tag   Tag
	Value []byte
}

// NextTLV splits the first object off b. The value is a copy.
func NextTLV(b []byte) (obj TLV, rest []byte, err error) {
	if len(b) == 0 {
		return TLV{}, nil, ErrTLV
	}
	tag, b := Tag(b[0]), b[1:]
	if tag&0x1F == 0x1F {
		// One subsequent byte, without continuation and not coding a number below 31.
		if len(b) == 0 || b[0]&0x80 != 0 || b[0] < 0x1F {
			return TLV{}, nil, ErrTLV
		}
		tag, b = tag<<8|Tag(b[0]), b[1:]
	}
	n, b, err := length(b)
	if err != nil || n > len(b) {
		return TLV{}, nil, ErrTLV
	}
	return TLV{Tag: tag, Value: bytes.Clone(b[:n])}, b[n:], nil
}

func length(b []byte) (n int, rest []byte, err error) {
	switch {
	case len(b) >= 1 && b[0] < 0x80:
		return int(b[0]), b[1:], nil
	case len(b) >= 2 && b[0] == 0x81 && b[1] >= 0x80:
		return int(b[1]), b[2:], nil
	case len(b) >= 3 && b[0] == 0x82 && b[1] != 0:
		return int(b[1])<<8 | int(b[2]), b[3:], nil
	}
	return 0, nil, ErrTLV
}

// ParseTLVs splits b into objects; every byte must belong to one.
func ParseTLVs(b []byte) ([]TLV, error) {
	var out []TLV
	for len(b) > 0 {
		obj, rest, err := NextTLV(b)
		if err != nil {
			return nil, err
		}
		out, b = append(out, obj), rest
	}
	return out, nil
}

// AppendTLV appends the one encoding of an object of up to 65,535 bytes.
func AppendTLV(dst []byte, tag Tag, value []byte) []byte {
	if tag > 0xFF {
		dst = append(dst, byte(tag>>8))
	}
	dst = append(dst, byte(tag))
	switch n := len(value); {
	case n < 0x80:
		dst = append(dst, byte(n))
	case n < 0x100:
		dst = append(dst, 0x81, byte(n))
	case n < 0x10000:
		dst = append(dst, 0x82, byte(n>>8), byte(n))
	default:
		panic("apdu: a TLV value has at most 65,535 bytes")
	}
	return append(dst, value...)
}
