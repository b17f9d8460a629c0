package cardsim

import (
	"bytes"
	"encoding/binary"
)

// application is what SELECT by name chose.
type application byte

const (
	appISD application = iota
	appCounter
)

// counterAID names the applet with the transaction counter.
var counterAID = []byte{0xF0, 'C', 'A', 'R', 'D', 'S', 'I', 'M', 0x01}

const (
	pinTries = 3
	fileID   = 0x0101 // the transparent file
)

// selectName handles SELECT by DF name (P1 04) and by file identifier (P1 00).
func (c *Card) selectName(cmd command) ([]byte, word) {
	switch {
	case cmd.p1 == 0x00:
		if !bytes.Equal(cmd.data, []byte{fileID >> 8, fileID & 0xFF}) {
			return nil, swNotFound
		}
		c.ram.fileOpen = true
		return appendTLV(nil, 0x62, []byte{0x80, 0x02, 0x00, fileBytes, 0x82, 0x01, 0x01, 0x83, 0x02, fileID >> 8, fileID & 0xFF}), swOK
	case cmd.p1 != 0x04:
		return nil, swParameters
	case len(cmd.data) == 0 || bytes.Equal(cmd.data, c.cfg.ISD):
		c.ram.selected = appISD
		return fci(c.cfg.ISD), swOK
	case bytes.Equal(cmd.data, counterAID):
		c.ram.selected = appCounter
		return fci(counterAID), swOK
	}
	return nil, swNotFound
}

// fci is the answer to SELECT: 6F {84 AID, A5 {9F65 maximum length of command data}}.
func fci(aid []byte) []byte {
	body := appendTLV(nil, 0x84, aid)
	body = appendTLV(body, 0xA5, []byte{0x9F, 0x65, 0x01, 0xFF})
	return appendTLV(nil, 0x6F, body)
}

// Data objects with fixed contents. The CPLC is 42 zero bytes but for the card's name in its serial number.
var (
	cplc     = append([]byte{0x9F, 0x7F, 0x2A}, append([]byte("CARDSIM"), make([]byte, 35)...)...)
	cardData = []byte{0x66, 0x0B, 0x73, 0x09, 0x06, 0x07, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x01}
)

// getData answers GET DATA. Status and receipt need a session; the rest does not.
func (c *Card) getData(cmd command, s *session) ([]byte, word) {
	switch tag := uint16(cmd.p1)<<8 | uint16(cmd.p2); {
	case tag == tagCPLC:
		return cplc, swOK
	case tag == tagCardData:
		return cardData, swOK
	case tag == tagKeyInformation:
		return c.keyInformation(), swOK
	case tag == uint16(tagStatus) && cmd.cla == 0x80:
		return c.status(s)
	case tag == uint16(tagReceipt) && cmd.cla == 0x80:
		return c.receipt(s)
	case tag == tagSequenceCounter && c.cfg.Legacy.KVN != 0:
		return appendTLV(nil, tagSequenceCounter, c.legacyCounter()), swOK
	}
	return nil, swReference
}

// Tags of GET DATA.
const (
	tagCPLC           = 0x9F7F
	tagCardData       = 0x0066
	tagKeyInformation = 0x00E0

	tagSequenceCounter = 0x00C1 // of SCP02
)

// keyInformation is the key information template: E0 {C0 {key id, KVN, 88 (AES), length} ...}.
func (c *Card) keyInformation() []byte {
	var body []byte
	for _, k := range c.keyring() {
		for id := byte(1); id <= 3; id++ {
			body = appendTLV(body, 0xC0, []byte{id, k.KVN, 0x88, byte(len(k.ENC))})
		}
	}
	if u := c.ram.keys.update; u.Value != nil {
		body = appendTLV(body, 0xC0, []byte{u.ID, u.KVN, 0x88, byte(len(u.Value))})
	}
	return appendTLV(nil, 0xE0, body)
}

// readBinary reads from the selected file at the offset in P1 and P2, up to Le or the end of the file.
func (c *Card) readBinary(cmd command) ([]byte, word) {
	offset := int(cmd.p1)<<8 | int(cmd.p2)
	switch {
	case !c.ram.fileOpen:
		return nil, swConditions
	case offset >= fileBytes:
		return nil, swOffset
	}
	file, ok := c.layout.file.load(c.nvm)
	if !ok {
		return nil, swMemory
	}
	return file[offset:min(offset+cmd.le, fileBytes)], swOK
}

// updateBinary writes to the selected file after the PIN. The file is one record: a power cut leaves it as it was or as it
// was to be.
func (c *Card) updateBinary(cmd command) word {
	offset := int(cmd.p1)<<8 | int(cmd.p2)
	switch {
	case !c.ram.fileOpen:
		return swConditions
	case !c.ram.pinOK:
		return swSecurity
	case len(cmd.data) == 0:
		return swLength
	case offset+len(cmd.data) > fileBytes:
		return swOffset
	}
	file, ok := c.layout.file.load(c.nvm)
	if !ok {
		return swMemory
	}
	copy(file[offset:], cmd.data)
	c.layout.file.store(c.nvm, file)
	return swOK
}

// verify compares the PIN. Without data it tells the tries left. The try is taken before the comparison, so that a power cut
// after seeing the result does not give it back.
func (c *Card) verify(cmd command) word {
	if cmd.p1 != 0 || cmd.p2 != 0x80 {
		return swParameters
	}
	tries := c.loadByte(c.layout.pin)
	switch {
	case tries == 0:
		return swBlocked
	case len(cmd.data) == 0:
		return swPINTriesLeft | word(tries)
	}
	c.ram.pinOK = false
	if !c.faults.pinAfterCompare {
		c.layout.pin.store(c.nvm, []byte{tries - 1})
	}
	// Dying here costs one try.
	if !equal(cmd.data, c.cfg.PIN) {
		if c.faults.pinAfterCompare {
			c.layout.pin.store(c.nvm, []byte{tries - 1})
		}
		return swPINTriesLeft | word(tries-1)
	}
	c.layout.pin.store(c.nvm, []byte{pinTries})
	c.ram.pinOK = true
	return swOK
}

// generate raises the transaction counter of the applet by one and returns it. It is stored before it is told, so that no
// value is told twice.
func (c *Card) generate() ([]byte, word) {
	if c.ram.selected != appCounter {
		return nil, swConditions
	}
	old, ok := c.layout.atc.load(c.nvm)
	if !ok || bytes.Equal(old, []byte{0xFF, 0xFF}) {
		return nil, swConditions
	}
	atc := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(old)+1)
	c.layout.atc.store(c.nvm, atc)
	return atc, swOK
}
