package scp02

import (
	"context"
	"encoding/hex"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// KeyBlock returns one key data field of PUT KEY for a 2-key 3DES key, in a session
// with explicit initiation: 80 | 10 | 3DES-ECB(session DEK, key) | 03 | KCV. [GPCS],
// Sections 11.8.2.3 and E.4.7. The value is wrapped inside the token; where the token
// cannot, the error is fault.TokenUnable.
func (m Messaging) KeyBlock(ctx context.Context, w derive.Wrapper, k *derive.Key) ([]byte, error) {
	if m.I&IExplicit == 0 || m.Keys.DEK == nil || k.Algorithm() != key.TDEA2 {
		return nil, fault.New(fault.InvalidInput, "PUT KEY of SCP02 sends 2-key 3DES keys, in a session that has a DEK and was initiated explicitly")
	}
	value, err := w.Wrap(ctx, m.Keys.DEK, k)
	if err != nil {
		return nil, fmt.Errorf("wrapping a card key: %w", err)
	}
	kcv, err := w.KCV(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("computing the check value of a card key: %w", err)
	}
	check, err := hex.DecodeString(kcv.Value)
	if err != nil || len(check) != 3 || len(value) != key.TDEA2.Size() {
		return nil, fmt.Errorf("scp02: a wrapped card key has 16 bytes and a check value 3")
	}
	out := append([]byte{0x80, byte(len(value))}, value...)
	return append(append(out, byte(len(check))), check...), nil
}
