package emv

import (
	"context"
	"slices"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// The data objects of Format 1: [7816-4] ISO/IEC 7816-4:2005, Tables 28 and 29 for the first
// two, whose odd tags say that the MAC covers them.
const (
	tagPlain     apdu.Tag = 0x81 // plain value, which nobody looks into
	tagEncrypted apdu.Tag = 0x87 // padding indicator | cryptogram
	tagMAC       apdu.Tag = 0x8E

	paddingIndicator = 0x01 // padding method 2
)

// valueMax is the greatest value in a command of Format 1, beside tag and length (3 bytes)
// and the object of the MAC.
const valueMax = apdu.ShortDataMax - 3 - (2 + MACBytes)

// secure1 returns the command in Format 1, and its whole MAC, which the next command's
// continues: CLA whose low nibble is C, because the MAC covers the header, and as data
//
//	81 L data, or 87 L 01 | encrypted data, or nothing    8E 08 MAC
//
// ([EMV2], Sections 9.2.1.1 and 9.3.1.1). The MAC covers the chaining value, the header and
// the object, each padded to whole blocks: Section 9.2.3. The first chaining value is the
// ARQC, for AES with zeros up to a block, every other one the MAC before, all of it:
// Section 9.2.3.1. Under 3DES two cards in software by other authors check MACs so, under
// AES one. An object for Le (97) is not made: the commands of scripts have no Le, one of
// the cards refuses it, and the other has two ways to pad two objects.
//
// Experimental.
func (p Profile) secure1(ctx context.Context, t derive.TDEAToken, k Keys, chain []byte, c Command) (command, mac []byte, err error) {
	tag, value := tagPlain, c.Data
	if c.Encipher {
		encrypted, err := Encipher(ctx, t, k.ENC, p.Encipherment, c.Data)
		if err != nil {
			return nil, nil, err
		}
		tag, value = tagEncrypted, append([]byte{paddingIndicator}, encrypted...)
	}
	if len(value) > valueMax {
		return nil, nil, fault.New(fault.InvalidInput, "the command's data leaves no room for its MAC")
	}
	size := k.MAC.block()
	header := []byte{c.CLA&0xF0 | 0x0C, c.INS, c.P1, c.P2}
	message := slices.Concat(chain, make([]byte, max(0, size-len(chain))), derive.Pad2(header, size))
	var data []byte
	if len(value) > 0 {
		data = apdu.AppendTLV(nil, tag, value)
		message = append(message, derive.Pad2(data, size)...)
	}
	if mac, err = k.MAC.mac(ctx, t, Padding1, message); err != nil { // whole blocks: nothing is padded
		return nil, nil, err
	}
	data = apdu.AppendTLV(data, tagMAC, mac[:MACBytes])
	return slices.Concat(header, []byte{byte(len(data))}, data), mac, nil
}
