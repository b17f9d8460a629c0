package hsm

import (
	"context"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var zeros16 = make([]byte, 16)

// expect compares a known answer.
func expect(got []byte, err error, want string) error {
	if err == nil && fmt.Sprintf("%X", got) != want {
		err = fault.New(fault.TokenUnable, "the token computes something else")
	}
	return err
}

func (t *Token) tryDerivation(ctx context.Context) error {
	k, forget, err := t.ImportVolatile(ctx, "cardkms-probe-kdf", key.AES128, derive.Static, zeros16)
	if err != nil {
		return err
	}
	defer forget()
	// The derivation of scp03 for constant 01 and 256 bits under the zero key with
	// a zero context: blaufish/scp03_kdf_testvectors, first vector.
	before := append(make([]byte, 11), 0x01, 0x00, 0x01, 0x00)
	child := k.Derive(derive.Step{
		Function: derive.CMACCounter, Before: before, After: zeros16,
		Class: derive.Static, Algorithm: key.AES256,
	})
	defer t.Release(child)
	ok, err := t.Matches(ctx, k, child.Step(), unhex("329C873894717F6D545C755D175AE7EC"))
	if err == nil && !ok {
		err = fault.New(fault.TokenUnable, "the token derives another key")
	}
	if err != nil {
		return err
	}
	// The check value of that key, computed with AES over 16 bytes 01.
	kcv, err := t.KCV(ctx, child)
	return expect([]byte(kcv.Value), err, fmt.Sprintf("%X", probeKCV))
}

func (t *Token) tryCBC(ctx context.Context) error {
	k, forget, err := t.ImportVolatile(ctx, "cardkms-probe-cbc", key.AES128, derive.SessionENC, zeros16)
	if err != nil {
		return err
	}
	defer forget()
	// AES-128 of a zero block under the zero key: NIST AESAVS, KAT.
	enc, err := t.Encrypt(ctx, k, zeros16)
	if err := expect(enc, err, "66E94BD4EF8A2C3B884CFA59CA342B2E"); err != nil {
		return err
	}
	dec, err := t.Decrypt(ctx, k, zeros16, enc)
	return expect(dec, err, fmt.Sprintf("%X", zeros16))
}

func (t *Token) tryTDEA(ctx context.Context) error {
	k, forget, err := t.ImportVolatile(ctx, "cardkms-probe-tdea", key.TDEA2, derive.Static, unhex("404142434445464748494A4B4C4D4E4F"))
	if err != nil {
		return err
	}
	defer forget()
	// EMV CPS K-ENC for KDD 00010203040506070809: GlobalPlatformPro, TestPlaintextKeys.
	child := k.Derive(derive.Step{
		Function: derive.ECB, Messages: [][]byte{unhex("040506070809F0010405060708090F01")},
		Class: derive.Static, Algorithm: key.TDEA2,
	})
	defer t.Release(child)
	kcv, err := t.KCV(ctx, child)
	return expect([]byte(kcv.Value), err, fmt.Sprintf("%X", "C33013"))
}

// tryRetail derives a key of the retail MAC as SCP02 does and computes with it: the
// pseudo-random card challenge of a session that keycard-go recorded, sequence
// counter 000D, AID A000000151000000.
func (t *Token) tryRetail(ctx context.Context) error {
	base, forget, err := t.ImportVolatile(ctx, "cardkms-probe-retail", key.TDEA2, derive.StaticCBC, unhex("404142434445464748494A4B4C4D4E4F"))
	if err != nil {
		return err
	}
	defer forget()
	k, err := base.Retail(derive.Step{Function: derive.CBC, Messages: [][]byte{unhex("0101000D000000000000000000000000")}})
	if err != nil {
		return err
	}
	defer t.Release(k.Whole(), k.Left())
	mac, err := t.RetailMAC(ctx, k, unhex("A0000001510000008000000000000000"))
	if err != nil {
		return err
	}
	return expect(mac[:6], nil, "E9C62BA1C4C8")
}

// tryXOR makes the session key of a Visa script: emv-visa-cvn10 of the vectors in
// derive/emv, whose MAC of a command without data is known.
func (t *Token) tryXOR(ctx context.Context) error {
	imk, forget, err := t.ImportVolatile(ctx, "cardkms-probe-xor", key.TDEA2, derive.Static, unhex("FEDCBA98765432100123456789ABCDEF"))
	if err != nil {
		return err
	}
	defer forget()
	made := derive.Step{Function: derive.ECB, Messages: [][]byte{unhex("3456789012345600CBA9876FEDCBA9FF")}, Class: derive.Static, Algorithm: key.TDEA2}
	k, err := imk.RetailXOR(made, unhex("000000000000001C000000000000FFE3"))
	if err != nil {
		return err
	}
	defer t.Release(k.Whole(), k.Left(), k.Whole().Parent(), k.Left().Parent())
	t.plan.xor = true
	mac, err := t.RetailMAC(ctx, k, unhex("8418000008001C29CCA15AE665FA2E80"))
	if err = expect(mac, err, "DB56BA60087CEFD3"); err != nil {
		t.plan.xor = false
	}
	return err
}

// tryWrap wraps a key of type a under a key of zeros: zeros too for AES, bytes 01 for
// 3DES, because NSS gives an imported 3DES key odd parity.
func (t *Token) tryWrap(ctx context.Context, under, a key.Algorithm) error {
	dek, forget, err := t.ImportVolatile(ctx, "cardkms-probe-dek", under, derive.DataEncryption, zeros16)
	if err != nil {
		return err
	}
	defer forget()
	value, want := make([]byte, a.Size()), "66E94BD4EF8A2C3B884CFA59CA342B2E" // AES-128 of a zero block, as in tryCBC
	if under.TDEA() {
		value, want = ones16, "994D4DC157B96C52994D4DC157B96C52" // DES of a block of bytes 01 under the zero key, twice
	}
	k, forgetKey, err := t.ImportVolatile(ctx, "cardkms-probe-transport", a, derive.Transport, value)
	if err != nil {
		return err
	}
	defer forgetKey()
	out, err := t.Wrap(ctx, dek, k)
	if err != nil {
		return err
	}
	if len(out) < 16 {
		return fault.New(fault.TokenUnable, "the token computes something else")
	}
	return expect(out[:16], nil, want)
}
