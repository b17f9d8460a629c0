package scp80

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/bits"

	"cardkms/derive"
)

// checkBytes returns the length of a check of this kind.
func (h Header) checkBytes(c Check) int {
	switch {
	case c == RC && h.KID&0x0F == rcCRC16:
		return 2
	case c == RC:
		return 4
	case c == CC && h.KID&0x0F == algAES && h.CCBytes != 0:
		return h.CCBytes
	case c == CC:
		return 8
	}
	return 0
}

// check computes the check of a packet, whose own field is left out of message.
func (h Header) check(ctx context.Context, t derive.Token, kid *derive.Key, c Check, message []byte) ([]byte, error) {
	switch {
	case c == NoCheck:
		return nil, nil
	case c == RC && h.KID&0x0F == rcCRC16:
		return binary.BigEndian.AppendUint16(nil, CRC16(message)), nil
	case c == RC:
		return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(message)), nil
	case kid.Algorithm().TDEA():
		return cbcMAC(ctx, t, kid, message)
	}
	mac, err := t.MAC(ctx, kid, message)
	if err != nil {
		return nil, err
	}
	return mac[:h.checkBytes(c)], nil
}

// cbcMAC is [9797-1] ISO/IEC 9797-1:2011, Section 7.2, MAC algorithm 1 with 3DES and
// padding method 1. The blocks before the last are no more secret than a MAC, and stay
// in this function.
func cbcMAC(ctx context.Context, t derive.Token, k *derive.Key, message []byte) ([]byte, error) {
	out, err := encrypt(ctx, t, k, zeros(message, 8))
	if err != nil {
		return nil, err
	}
	defer clear(out)
	return bytes.Clone(out[len(out)-8:]), nil
}

// encrypt refuses what is no ciphertext of data, so that a broken token is an error.
func encrypt(ctx context.Context, t derive.Token, k *derive.Key, data []byte) ([]byte, error) {
	out, err := t.Encrypt(ctx, k, data)
	if err == nil && len(out) != len(data) {
		return nil, errLength
	}
	return out, err
}

var errLength = errors.New("scp80: the token computed another length than it was given")

// zeros returns data with zeros up to a multiple of size.
func zeros(data []byte, size int) []byte {
	return append(bytes.Clone(data), make([]byte, (size-len(data)%size)%size)...)
}

// CRC16 is the checksum of [13239] ISO/IEC 13239, 16 bits, known as CRC-16/X-25: the
// polynomial 1021 reflected, all ones at the start and in the result.
func CRC16(data []byte) uint16 {
	poly := bits.Reverse16(0x1021)
	crc := ^uint16(0)
	for _, b := range data {
		crc ^= uint16(b)
		for range 8 {
			// -(crc & 1) is all ones where a bit leaves.
			crc = crc>>1 ^ poly&-(crc&1)
		}
	}
	return ^crc
}
