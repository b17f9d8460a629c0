package update

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"cardkms/derive"
	"cardkms/kms/apdu"
)

// Seal returns chunk i, from 1, over its data in the image: two calls of the
// token under suite 01, none under suite 00.
func (p *Package) Seal(ctx context.Context, t derive.Token, i int, data []byte) ([]byte, error) {
	from, to := p.Manifest.ChunkRange(i)
	if i < 1 || i > p.Manifest.Chunks() || int64(len(data)) != to-from {
		return nil, fmt.Errorf("update: chunk %d has not %d bytes", i, len(data))
	}
	content := apdu.AppendTLV(nil, 0x80, []byte{byte(i >> 16), byte(i >> 8), byte(i)})
	checked := binary.BigEndian.AppendUint32(bytes.Clone(data), crc32.ChecksumIEEE(data))
	if p.Manifest.Suite == Plain {
		return apdu.AppendTLV(nil, 0xE3, apdu.AppendTLV(content, 0x81, checked)), nil
	}
	// CBC with a zero IV over i | data begins with AES(K_enc, i), the ICV.
	in := append(make([]byte, 12, 32+len(checked)), be32(uint32(i))...)
	enc, err := t.Encrypt(ctx, p.Keys.ENC, append(in, derive.Pad2(checked, 16)...))
	if err != nil {
		return nil, fmt.Errorf("encrypting chunk %d: %w", i, err)
	}
	enc[15] = 0x01 // padding method 2, in the place of the ICV's last byte
	content = apdu.AppendTLV(content, 0x87, enc[15:])
	mac, err := p.computeMAC(ctx, t, 0xE3, content)
	if err != nil {
		return nil, err
	}
	return apdu.AppendTLV(nil, 0xE3, apdu.AppendTLV(content, 0x8E, mac[:8])), nil
}

// StoreData returns the chain of STORE DATA commands that carries an object,
// with at most room data bytes in each.
func StoreData(object []byte, room int, extended bool) ([]apdu.Command, error) {
	if room < 1 || len(object) > 256*room {
		return nil, fmt.Errorf("update: an object of %d bytes does not fit a chain of 256 commands of %d", len(object), room)
	}
	ne := apdu.ShortNeMax
	if extended {
		ne = apdu.ExtendedNeMax
	}
	var out []apdu.Command
	for n := 0; len(object) > 0; n++ {
		cut := min(room, len(object))
		c := apdu.Command{CLA: 0x80, INS: 0xE2, P1: 0x11, P2: byte(n), Data: object[:cut], Ne: ne, Extended: extended}
		if object = object[cut:]; len(object) == 0 {
			c.P1 = 0x91
		}
		out = append(out, c)
	}
	return out, nil
}

// GetStatus asks the card for its update status.
func GetStatus() apdu.Command {
	return apdu.Command{CLA: 0x80, INS: 0xCA, P2: 0xE5, Ne: apdu.ShortNeMax}
}

// GetReceipt asks the card for the receipt of its last confirmed package.
func GetReceipt() apdu.Command {
	return apdu.Command{CLA: 0x80, INS: 0xCA, P2: 0xE6, Ne: apdu.ShortNeMax}
}
