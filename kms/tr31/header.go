package tr31

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cardkms/kms/key"
)

// Header is the clear, authenticated part of a block.
type Header struct {
	Version       byte   // 'B' or 'D'
	Usage         string // 2 characters
	Algorithm     byte
	Mode          byte
	KeyVersion    string // 2 characters
	Exportability byte
	Optional      []Optional // without PB
}

// Optional is an optional block.
type Optional struct {
	ID   string // 2 characters
	Data string
}

const (
	headerChars = 16
	blockMax    = 9992 // the length has four digits
	optionalMax = 99
	paddingID   = "PB"
)

var errHeader = errors.New("tr31: not a key block of version B or D")

func cipherBlock(version byte) int {
	if version == 'B' {
		return 8
	}
	return 16
}

func macBytes(version byte) int { return cipherBlock(version) }

func upper(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

func printable(s string) bool {
	for _, r := range []byte(s) {
		if r < 0x20 || r > 0x7E {
			return false
		}
	}
	return true
}

// check refuses a header that no block could have.
func (h Header) check() error {
	keyVersion := h.KeyVersion
	if len(keyVersion) == 2 && keyVersion[0] == 'c' {
		keyVersion = "C" + keyVersion[1:] // c marks a component
	}
	switch {
	case h.Version != 'B' && h.Version != 'D':
		return fmt.Errorf("%w: versions A and C are not read", errHeader)
	case len(h.Usage) != 2 || !upper(h.Usage), !upper(string([]byte{h.Algorithm})), !upper(string([]byte{h.Mode})):
		return fmt.Errorf("%w: usage, algorithm or mode of use", errHeader)
	case len(keyVersion) != 2 || !upper(keyVersion), !strings.ContainsRune("ENS", rune(h.Exportability)):
		return fmt.Errorf("%w: version of the key or exportability", errHeader)
	case len(h.Optional) > optionalMax:
		return fmt.Errorf("%w: too many optional blocks", errHeader)
	}
	for _, o := range h.Optional {
		if len(o.ID) != 2 || !upper(o.ID) || o.ID == paddingID || !printable(o.Data) {
			return fmt.Errorf("%w: an optional block", errHeader)
		}
	}
	return nil
}

// encode returns the header of a block with a content of this many bytes.
func (h Header) encode(content int) (string, error) {
	if err := h.check(); err != nil {
		return "", err
	}
	var blocks strings.Builder
	n := len(h.Optional)
	for _, o := range h.Optional {
		blocks.WriteString(o.encode())
	}
	if size := cipherBlock(h.Version); blocks.Len()%size != 0 {
		fill := size - blocks.Len()%size
		if fill < 4 {
			fill += size
		}
		blocks.WriteString(Optional{paddingID, strings.Repeat("0", fill-4)}.encode())
		n++
	}
	length := headerChars + blocks.Len() + 2*(content+macBytes(h.Version))
	if length > blockMax || n > optionalMax {
		return "", fmt.Errorf("%w: too long", errHeader)
	}
	return fmt.Sprintf("%c%04d%s%c%c%s%c%02d00%s", h.Version, length, h.Usage, h.Algorithm, h.Mode, h.KeyVersion, h.Exportability, n, blocks.String()), nil
}

func (o Optional) encode() string {
	if n := 4 + len(o.Data); n <= 0xFF {
		return fmt.Sprintf("%s%02X%s", o.ID, n, o.Data)
	}
	return fmt.Sprintf("%s0004%04X%s", o.ID, 10+len(o.Data), o.Data)
}

// Parse reads the header of a block and looks that the block has its length and
// nothing but hexadecimal digits after it. It verifies nothing.
func Parse(block string) (Header, error) {
	h, _, err := split(block)
	return h, err
}

// split returns the header, and how many characters it has.
func split(block string) (h Header, chars int, err error) {
	if len(block) < headerChars || len(block) > blockMax {
		return h, 0, errHeader
	}
	h = Header{
		Version: block[0], Usage: block[5:7], Algorithm: block[7], Mode: block[8], KeyVersion: block[9:11], Exportability: block[11],
	}
	length, err1 := decimal(block[1:5])
	n, err2 := decimal(block[12:14])
	if err1 != nil || err2 != nil || length != len(block) || block[14:16] != "00" {
		return h, 0, errHeader
	}
	rest := block[headerChars:]
	for i := range n {
		var o Optional
		if o, rest, err = optional(rest); err != nil {
			return h, 0, err
		}
		if o.ID != paddingID {
			h.Optional = append(h.Optional, o)
		} else if i != n-1 {
			return h, 0, fmt.Errorf("%w: a padding block that is not the last", errHeader)
		}
	}
	if err := h.check(); err != nil {
		return h, 0, err
	}
	return h, len(block) - len(rest), body(h.Version, rest, len(block)-len(rest))
}

// body checks what follows the header.
func body(version byte, s string, headerLength int) error {
	size := cipherBlock(version)
	content := len(s)/2 - macBytes(version)
	if headerLength%size != 0 || len(s)%2 != 0 || content < size || content%size != 0 || strings.Trim(s, "0123456789ABCDEF") != "" {
		return fmt.Errorf("%w: its length, or something other than upper-case hexadecimal digits", errHeader)
	}
	return nil
}

func decimal(s string) (int, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, errHeader
	}
	return strconv.Atoi(s)
}

func hexadecimal(s string) (int, error) {
	if strings.Trim(s, "0123456789ABCDEF") != "" {
		return 0, errHeader
	}
	n, err := strconv.ParseUint(s, 16, 31)
	return int(n), err
}

// optional reads one optional block off the front of s.
func optional(s string) (o Optional, rest string, err error) {
	if len(s) < 4 {
		return o, "", errHeader
	}
	front := 4
	n, err := hexadecimal(s[2:4])
	if err == nil && n == 0 && len(s) >= 6 {
		var digits int
		if digits, err = hexadecimal(s[4:6]); err == nil && digits > 0 && digits <= 8 && len(s) >= 6+digits {
			front = 6 + digits
			n, err = hexadecimal(s[6:front])
		}
	}
	if err != nil || n < front || n > len(s) {
		return o, "", fmt.Errorf("%w: the length of an optional block", errHeader)
	}
	return Optional{s[:2], s[front:n]}, s[n:], nil
}

// KeyAlgorithm returns the type of a key of n bytes in a block, "" for one that the
// service does not know.
func (h Header) KeyAlgorithm(n int) key.Algorithm {
	switch {
	case h.Algorithm == 'T' && n == 16:
		return key.TDEA2
	case h.Algorithm == 'T' && n == 24:
		return key.TDEA3
	case h.Algorithm == 'A':
		a, _ := key.AESOfSize(n) // "" for another length
		return a
	}
	return ""
}
