package scp80_test

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"hash/crc32"

	"cardkms/derive/derivetest"
	"cardkms/derive/scp80"
)

// card is the other side, over plain keys: it unpacks commands and packs responses.
type card struct {
	h        scp80.Header
	kic, kid []byte
	checkLen int // of both directions
}

// check computes the check of a kind over what it covers.
func (c card) check(kind scp80.Check, message []byte) []byte {
	switch kind {
	case scp80.NoCheck:
		return nil
	case scp80.RC:
		if c.h.KID&0x0F == 1 {
			return binary.BigEndian.AppendUint16(nil, scp80.CRC16(message))
		}
		return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(message))
	}
	b := derivetest.Cipher(algorithmOf(c.h.KID, c.kid), c.kid)
	if b.BlockSize() == 16 {
		return derivetest.CMAC(b, message, 1)[:c.checkLen]
	}
	x := make([]byte, 8)
	for len(message) > 0 {
		n := min(8, len(message))
		for i := range n {
			x[i] ^= message[i]
		}
		b.Encrypt(x, x)
		message = message[n:]
	}
	return x
}

// unpack returns what a command packet holds, if it is intact.
func (c card) unpack(packet []byte) (counter, data []byte, intact bool) {
	body := bytes.Clone(packet[10:])
	if c.h.SPI.Ciphered() {
		b := derivetest.Cipher(algorithmOf(c.h.KIc, c.kic), c.kic)
		cipher.NewCBCDecrypter(b, make([]byte, b.BlockSize())).CryptBlocks(body, body)
	}
	n := int(packet[2]) - 13
	check := body[6 : 6+n]
	covered := bytes.Join([][]byte{packet[:10], body[:6], body[6+n:]}, nil)
	return body[:5], body[6+n : len(body)-int(body[5])], bytes.Equal(check, c.check(c.h.SPI.Check(), covered))
}

// answer packs a response. pad is what PCNTR says, -1 for what is right.
func (c card) answer(counter []byte, status byte, data []byte, pad int) []byte {
	kind := c.h.SPI.AnswerCheck()
	n := len(c.check(kind, nil))
	size := 1
	var b cipher.Block
	if c.h.SPI.AnswerCiphered() {
		b = derivetest.Cipher(algorithmOf(c.h.KIc, c.kic), c.kic)
		size = b.BlockSize()
	}
	right := (size - (7+n+len(data))%size) % size
	if pad < 0 {
		pad = right
	}
	text := append(bytes.Clone(data), make([]byte, right)...)
	head := append(binary.BigEndian.AppendUint16(nil, uint16(4+7+n+len(text))), byte(3+7+n))
	head = append(head, c.h.TAR[:]...)
	counted := append(bytes.Clone(counter), byte(pad), status)
	check := c.check(kind, bytes.Join([][]byte{{0x02, 0x71, 0x00}, head, counted, text}, nil))
	body := bytes.Join([][]byte{counted, check, text}, nil)
	if b != nil {
		cipher.NewCBCEncrypter(b, make([]byte, size)).CryptBlocks(body, body)
	}
	return append(head, body...)
}
