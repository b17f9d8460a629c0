package emv

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"

	"cardkms/derive"
	"cardkms/kms/fault"
)

// Padding is how data is padded to whole blocks of a cryptogram.
type Padding int

// The padding methods of [9797-1] ISO/IEC 9797-1:2011, Sections 6.3.2 and 6.3.3.
const (
	Padding1 Padding = 1 // zeros, none after whole blocks
	Padding2 Padding = 2 // 80, then zeros
)

func (p Padding) pad(data []byte) []byte {
	if p == Padding2 {
		return derive.Pad2(data, 8)
	}
	out := append([]byte{}, data...)
	for len(out) == 0 || len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

// DataMax bounds the data that a cryptogram covers.
const DataMax = 1024

var errDataLength = fault.New(fault.InvalidInput, fmt.Sprintf("a cryptogram covers 1 to %d bytes", DataMax))

// MACKey refers to a key of cryptograms or of the MACs of a script: of the retail MAC
// under 3DES, of AES-CMAC under AES ([EMV2], Annex A1.2).
type MACKey struct {
	Retail derive.RetailKey
	AES    *derive.Key // nil under 3DES
}

// Keys returns what a token may have made for the key, to release it.
func (k MACKey) Keys() []*derive.Key {
	if k.AES != nil {
		return []*derive.Key{k.AES}
	}
	return []*derive.Key{k.Retail.Whole(), k.Retail.Left(), k.Retail.Left().Parent()}
}

// block returns the length in bytes of the cipher's blocks.
func (k MACKey) block() int {
	if k.AES != nil {
		return derive.BlockSize(k.AES.Algorithm())
	}
	return derive.BlockSize(k.Retail.Whole().Algorithm())
}

// mac returns the whole MAC of data, 8 bytes under 3DES and 16 under AES, where the
// padding is that of CMAC.
func (k MACKey) mac(ctx context.Context, t derive.TDEAToken, p Padding, data []byte) ([]byte, error) {
	if k.AES != nil {
		return t.MAC(ctx, k.AES, data)
	}
	return t.RetailMAC(ctx, k.Retail, p.pad(data))
}

// Cryptogram computes ARQC, TC or AAC over the scheme's data, the first 8 bytes of a MAC:
// [EMV2], Section 8.1.
func Cryptogram(ctx context.Context, t derive.TDEAToken, k MACKey, p Padding, data []byte) ([]byte, error) {
	if len(data) == 0 || len(data) > DataMax {
		return nil, errDataLength
	}
	mac, err := k.mac(ctx, t, p, data)
	if err != nil {
		return nil, err
	}
	return mac[:8], nil
}

// Verify compares, in constant time, a cryptogram with the one that the data asks for, or
// returns fault.Proof().
func Verify(ctx context.Context, t derive.TDEAToken, k MACKey, p Padding, data, cryptogram []byte) error {
	want, err := Cryptogram(ctx, t, k, p, data)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, cryptogram) != 1 {
		return fault.Proof()
	}
	return nil
}

// Method is how an ARPC is computed.
type Method int

// The methods of [EMV2], Section 8.2.
const (
	Method1 Method = 1
	Method2 Method = 2
)

// ARPC1 answers an ARQC with an authorisation response code of 2 bytes:
// 3DES[ARQC xor (ARC | 00 00 00 00 00 00)], 8 bytes ([EMV2], Section 8.2.1). One
// block of the retail MAC is just that encryption.
func ARPC1(ctx context.Context, t derive.TDEAToken, k derive.RetailKey, arqc, arc []byte) ([]byte, error) {
	if len(arqc) != 8 || len(arc) != 2 {
		return nil, fault.New(fault.InvalidInput, "ARPC method 1 takes an ARQC of 8 bytes and an ARC of 2")
	}
	y := append([]byte{}, arqc...)
	y[0], y[1] = y[0]^arc[0], y[1]^arc[1]
	return t.RetailMAC(ctx, k, y)
}

// ARPC2 answers an ARQC with a card status update of 4 bytes and up to 8 bytes of
// proprietary data: the first 4 bytes of the MAC over all three ([EMV2], Section
// 8.2.2).
func ARPC2(ctx context.Context, t derive.TDEAToken, k MACKey, arqc, csu, proprietary []byte) ([]byte, error) {
	if len(arqc) != 8 || len(csu) != 4 || len(proprietary) > 8 {
		return nil, fault.New(fault.InvalidInput, "ARPC method 2 takes an ARQC of 8 bytes, a CSU of 4 and at most 8 bytes of proprietary data")
	}
	mac, err := k.mac(ctx, t, Padding2, slices.Concat(arqc, csu, proprietary))
	if err != nil {
		return nil, err
	}
	return mac[:4], nil
}
