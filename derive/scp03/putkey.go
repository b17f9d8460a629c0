package scp03

import (
	"context"
	"encoding/hex"
	"fmt"

	"cardkms/derive"
)

// PutKeyFormat is how a key block of PUT KEY states the key's length: real
// cards disagree.
type PutKeyFormat byte

// The formats.
const (
	// WithLength puts the key's length in front of the encrypted value
	// (GlobalPlatformPro, openjavacard, NXP).
	WithLength PutKeyFormat = iota
	// NoLength leaves it out (kaoh/globalplatform, pySim, yubikit); possible only
	// where the value needed no padding.
	NoLength
)

// KeyBlock returns one key data field of PUT KEY for an AES key:
// 88 | length | [key length] | AES-CBC(K-DEK, zero IV, key) | 03 | KCV.
// [AmdD], Section 7.2; the key value is wrapped inside the token.
func KeyBlock(ctx context.Context, w derive.Wrapper, dek, k *derive.Key, f PutKeyFormat) ([]byte, error) {
	size := k.Algorithm().Size()
	if f == NoLength && size%16 != 0 {
		return nil, fmt.Errorf("scp03: a key of %d bytes needs padding, hence its length", size)
	}
	value, err := w.Wrap(ctx, dek, k)
	if err != nil {
		return nil, fmt.Errorf("wrapping a card key: %w", err)
	}
	kcv, err := w.KCV(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("computing the check value of a card key: %w", err)
	}
	check, err := hex.DecodeString(kcv.Value)
	if err != nil || len(check) != 3 {
		return nil, fmt.Errorf("scp03: the check value of a card key has not 3 bytes")
	}
	out := []byte{0x88}
	if f == WithLength {
		out = append(out, byte(len(value)+1), byte(size))
	} else {
		out = append(out, byte(len(value)))
	}
	return append(append(append(out, value...), 0x03), check...), nil
}
