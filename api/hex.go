package api

import (
	"encoding/hex"
	"errors"
)

// ErrHex: the text is not hexadecimal with two digits for each byte. It never
// holds the text.
var ErrHex = errors.New("api: not hexadecimal with two digits for each byte")

// Hex is card data: upper case without spaces in JSON, either case when read.
type Hex []byte

// String returns upper-case hexadecimal digits.
func (h Hex) String() string {
	b, _ := h.AppendText(nil)
	return string(b)
}

// AppendText implements encoding.TextAppender.
func (h Hex) AppendText(dst []byte) ([]byte, error) {
	const digits = "0123456789ABCDEF"
	for _, b := range h {
		dst = append(dst, digits[b>>4], digits[b&0x0F])
	}
	return dst, nil
}

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) {
	return h.AppendText(make([]byte, 0, 2*len(h)))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	out := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(out, text); err != nil {
		return ErrHex
	}
	*h = out
	return nil
}

// ParseHex parses what String returns, in either case.
func ParseHex(s string) (Hex, error) {
	var h Hex
	err := h.UnmarshalText([]byte(s))
	return h, err
}

// HexList turns byte strings into Hex, and Bytes turns them back.
func HexList(in [][]byte) []Hex {
	out := make([]Hex, len(in))
	for i, b := range in {
		out[i] = b
	}
	return out
}

// Bytes returns the byte strings of a list.
func Bytes(in []Hex) [][]byte {
	out := make([][]byte, len(in))
	for i, h := range in {
		out[i] = h
	}
	return out
}

// HexByte is one byte of card data, such as a Key Version Number: two digits.
type HexByte byte

// String returns two upper-case hexadecimal digits.
func (b HexByte) String() string { return Hex{byte(b)}.String() }

// MarshalText implements encoding.TextMarshaler.
func (b HexByte) MarshalText() ([]byte, error) { return Hex{byte(b)}.MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *HexByte) UnmarshalText(text []byte) error {
	var out [1]byte
	if len(text) != 2 {
		return ErrHex
	}
	if _, err := hex.Decode(out[:], text); err != nil {
		return ErrHex
	}
	*b = HexByte(out[0])
	return nil
}
