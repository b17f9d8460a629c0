package cardsim

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// EMVCard is the half of an EMV card that keys are about: it makes application
// cryptograms and checks what an issuer answers, as an M/Chip card with cryptogram
// version 20 does ([EMV2] EMV Book 2, Annexes A1.3 and A1.4, Sections 8 and 9); of scripts
// in Format 1 it knows what a card of the Common Core Definitions with version 5 does. It
// holds plain keys and knows single DES, so nothing of it is how a token computes the
// same. It is not safe for concurrent use.
type EMVCard struct {
	ac, smi, smc []byte // ICC master keys
	atc          uint16
	arqc         []byte // of the last transaction
	scripts      uint64 // commands taken since
	chain        []byte // what the MAC of the next command in Format 1 begins with
	pin          []byte // PIN block, ISO format 2
}

// PersonaliseEMV makes a card from issuer master keys of 16 bytes, by option A.
func PersonaliseEMV(ac, smi, smc []byte, pan, psn string) (*EMVCard, error) {
	c := &EMVCard{pin: []byte{0x24, 0x12, 0x34, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}
	for _, k := range []struct {
		imk []byte
		dst *[]byte
	}{{ac, &c.ac}, {smi, &c.smi}, {smc, &c.smc}} {
		if len(k.imk) != 16 {
			return nil, errors.New("cardsim: an issuer master key has 16 bytes")
		}
		digits := strings.Repeat("0", 16) + pan + psn
		y, err := hex.DecodeString(digits[len(digits)-16:])
		if err != nil {
			return nil, errors.New("cardsim: a PAN is of digits")
		}
		inverse := bytes.Clone(y)
		for i := range inverse {
			inverse[i] ^= 0xFF
		}
		*k.dst = append(encryptBlock(k.imk, y), encryptBlock(k.imk, inverse)...)
	}
	return c, nil
}

// Transact raises the ATC and returns it with the cryptogram over data.
func (c *EMVCard) Transact(data []byte) (atc uint16, arqc []byte) {
	c.atc++
	seed := binary.BigEndian.AppendUint16(nil, c.atc)
	mac := retailMAC(commonSessionKey(c.ac, append(seed, make([]byte, 6)...)), [8]byte{}, data)
	c.arqc, c.chain, c.scripts = mac[:], mac[:], 0
	return c.atc, bytes.Clone(c.arqc)
}

// Authorise checks an ARPC of method 1 for an authorisation response code.
func (c *EMVCard) Authorise(arpc []byte, arc [2]byte) error {
	seed := binary.BigEndian.AppendUint16(nil, c.atc)
	y := bytes.Clone(c.arqc)
	y[0], y[1] = y[0]^arc[0], y[1]^arc[1]
	if !bytes.Equal(encryptBlock(commonSessionKey(c.ac, append(seed, make([]byte, 6)...)), y), arpc) {
		return errors.New("cardsim: the ARPC is not of this transaction")
	}
	return nil
}

// Script takes one command of an issuer script: it checks the MAC and, for PIN
// CHANGE/UNBLOCK with data, decrypts the new PIN. A command that was changed, left out
// or sent twice has another MAC than the card expects.
func (c *EMVCard) Script(command []byte) error {
	if len(command) > 5 && command[0]&0x0F == 0x0C {
		return c.scriptFormat1(command)
	}
	if len(command) < 13 || command[0]&0x0F != 0x04 || int(command[4]) != len(command)-5 {
		return errors.New("cardsim: no command with secure messaging of Format 2")
	}
	seed := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(c.arqc)+c.scripts)
	data, mac := command[5:len(command)-8], command[len(command)-8:]
	covered := append(bytes.Clone(command[:5]), byte(c.atc>>8), byte(c.atc))
	covered = append(append(covered, c.arqc...), data...)
	if want := retailMAC(commonSessionKey(c.smi, seed), [8]byte{}, covered); !bytes.Equal(want[:], mac) {
		return fmt.Errorf("cardsim: command %d of the script has a wrong MAC", c.scripts+1)
	}
	c.scripts++
	if command[1] == 0x24 && len(data) == 8 {
		c.pin = make([]byte, 8)
		triple(commonSessionKey(c.smc, seed)).Decrypt(c.pin, data) // one block of CBC with a zero IV
	}
	return nil
}

// scriptFormat1 is Script for Format 1: 81 or 87 or nothing, then 8E with 4 to 8 bytes of the
// MAC. The keys are those of the ARQC for every command, and each MAC goes on from the one
// before.
func (c *EMVCard) scriptFormat1(command []byte) error {
	malformed := errors.New("cardsim: no command with secure messaging of Format 1")
	rest := command[5:]
	if int(command[4]) != len(rest) {
		return malformed
	}
	var value []byte
	if tag := rest[0]; tag == 0x81 || tag == 0x87 {
		var err error
		if value, rest, err = readTLV(rest, tag); err != nil {
			return malformed
		}
	}
	object := command[5 : len(command)-len(rest)]
	mac, after, err := readTLV(rest, 0x8E)
	if err != nil || len(after) != 0 || len(mac) < 4 || len(mac) > 8 {
		return malformed
	}
	covered := append(bytes.Clone(c.chain), command[:4]...)
	if len(object) > 0 {
		covered = append(pad8(covered), object...)
	}
	want := retailMAC(commonSessionKey(c.smi, c.arqc), [8]byte{}, covered)
	if !bytes.Equal(want[:len(mac)], mac) {
		return fmt.Errorf("cardsim: command %d of the script has a wrong MAC", c.scripts+1)
	}
	c.chain, c.scripts = want[:], c.scripts+1
	if command[1] == 0x24 && len(object) > 0 && object[0] == 0x87 {
		return c.takePIN(value)
	}
	return nil
}

// takePIN decrypts a PIN block after its padding indicator: CBC with a zero IV, two blocks
// of which the second is padding.
func (c *EMVCard) takePIN(value []byte) error {
	if len(value) != 17 || value[0] != 0x01 {
		return errors.New("cardsim: no encrypted PIN block")
	}
	plain := make([]byte, 16)
	cipher.NewCBCDecrypter(triple(commonSessionKey(c.smc, c.arqc)), make([]byte, 8)).CryptBlocks(plain, value[1:])
	if !bytes.Equal(plain, pad8(plain[:8])) {
		return errors.New("cardsim: no padding after a PIN block")
	}
	c.pin = plain[:8]
	return nil
}

// PIN returns the card's PIN block.
func (c *EMVCard) PIN() []byte { return bytes.Clone(c.pin) }

// commonSessionKey is the EMV Common Session Key: the master key over R with F0 and
// with 0F as its third byte.
func commonSessionKey(master, r []byte) []byte {
	left, right := bytes.Clone(r), bytes.Clone(r)
	left[2], right[2] = 0xF0, 0x0F
	return append(encryptBlock(master, left), encryptBlock(master, right)...)
}

func encryptBlock(k, block []byte) []byte {
	out := make([]byte, 8)
	triple(k).Encrypt(out, block)
	return out
}
