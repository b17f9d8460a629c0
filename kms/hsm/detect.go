package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// plan is what trying out the token found. It does not change afterwards.
type plan struct {
	native   bool // CKM_SP800_108_COUNTER_KDF with PRF AES-CMAC works
	copyable bool // the token knows CKA_COPYABLE
	allowed  bool // the token keeps CKA_ALLOWED_MECHANISMS
	xor      bool // CKM_XOR_BASE_AND_DATA makes a 3DES key
	enforced bool // the token itself refuses a readable key from a sensitive one
}

// Capability is one operation that the service needs of a token.
type Capability struct {
	// Word is what entries of the log call it. Auditors compare them over years: a word is
	// neither changed nor used again. kms.Service.Started lists them.
	Word      string
	Operation string
	Plan      string // how the token does it
	Err       error  // why it cannot; nil if it can
}

// Capabilities returns what the token was found able to do, in a fixed order.
func (t *Token) Capabilities() []Capability { return t.caps }

// detect tries what the service needs, on throw-away session keys.
func (t *Token) detect(ctx context.Context) error {
	var err error
	t.plan, err = answerWithin(ctx, t, t.slowly(), nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (plan, error) {
		return plan{
			copyable: t.keeps(s, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false)),
			allowed:  t.keeps(s, pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, ulongs([]uint{pkcs11.CKM_AES_ECB_ENCRYPT_DATA}))),
			native:   t.tryNative(s) == nil,
			enforced: !t.tryWeaken(s),
		}, nil
	})
	if err != nil {
		return err
	}
	t.caps = t.tryAll(ctx)
	for _, c := range t.caps {
		if errors.Is(c.Err, context.DeadlineExceeded) || errors.Is(c.Err, context.Canceled) {
			return c.Err // what did not answer may be able
		}
	}
	return nil
}

// throwAway generates an AES-128 session key with these further attributes.
func (t *Token) throwAway(s pkcs11.SessionHandle, extra ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	h, err := t.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
	}, extra...))
	return h, failed("C_GenerateKey", err)
}

// keeps reports whether the token accepts an attribute and gives it back.
func (t *Token) keeps(s pkcs11.SessionHandle, a *pkcs11.Attribute) bool {
	h, err := t.throwAway(s, a)
	if err != nil {
		return false
	}
	defer func() { _ = t.ctx.DestroyObject(s, h) }()
	return compareAttributes(t.ctx, s, h, []*pkcs11.Attribute{a}) == nil
}

// tryNative compares a key of the native mechanism with C_Sign(CMAC) over the
// same input, both under one readable throw-away key.
func (t *Token) tryNative(s pkcs11.SessionHandle) error {
	readable := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}
	base, err := t.throwAway(s, readable...)
	if err != nil {
		return err
	}
	defer func() { _ = t.ctx.DestroyObject(s, base) }()
	before, after := bytes.Repeat([]byte{0xB0}, 15), bytes.Repeat([]byte{0xAF}, 16)
	m, done := counterMechanism(before, after)
	defer done()
	h, err := t.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base, append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
	}, readable...))
	if err != nil {
		return failed("C_DeriveKey", err)
	}
	defer func() { _ = t.ctx.DestroyObject(s, h) }()
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil {
		return failed("C_GetAttributeValue", err)
	}
	want, err := t.sign(s, base, pkcs11.CKM_AES_CMAC, append(append(before, 1), after...))
	if err == nil && !bytes.Equal(got[0].Value, want) {
		err = errors.New("hsm: the native derivation gives another key")
	}
	return err
}

// tryWeaken reports whether a readable key can be derived from a sensitive one
// by any mechanism that a master allows: then the boundary is this package's and
// not the token's.
func (t *Token) tryWeaken(s pkcs11.SessionHandle) bool {
	base, err := t.throwAway(s, pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false))
	if err != nil {
		return true
	}
	defer func() { _ = t.ctx.DestroyObject(s, base) }()
	data := make([]byte, 16)
	ecb, doneECB := stringDataMechanism(pkcs11.CKM_AES_ECB_ENCRYPT_DATA, data)
	defer doneECB()
	kdf, doneKDF := counterMechanism(data, nil)
	defer doneKDF()
	for _, m := range []*pkcs11.Mechanism{ecb, kdf} {
		h, err := t.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base, readableTemplate(len(data)))
		if err == nil {
			_ = t.ctx.DestroyObject(s, h)
			return true
		}
	}
	return false
}

// tryAll runs one known answer per operation. The value of the throw-away keys
// is all zeros: the answers are constants of the algorithms.
func (t *Token) tryAll(ctx context.Context) []Capability {
	kdf := "composed from CKM_AES_ECB_ENCRYPT_DATA"
	if t.plan.native {
		kdf = "native CKM_SP800_108_COUNTER_KDF"
	}
	boundary := "by software: the token would derive readable keys, this service does not ask"
	if t.plan.enforced {
		boundary = "enforced by the token"
	}
	derivation := t.tryDerivation(ctx)
	if derivation != nil {
		boundary = "not seen: the token derives no keys at all"
	}
	caps := []Capability{
		{"derive_aes", "AES-CMAC key derivation (SCP03, KDF3, CUP-1)", kdf, derivation},
		{"aes_cbc", "AES-CBC", "CKM_AES_CBC", t.tryCBC(ctx)},
		{"derive_tdea", "3DES diversification (VISA2, EMV CPS)", "CKM_DES3_ECB_ENCRYPT_DATA", t.tryTDEA(ctx)},
	}
	for _, a := range []key.Algorithm{key.AES128, key.AES192, key.AES256} {
		caps = append(caps, Capability{"wrap_" + strings.ReplaceAll(string(a), "-", ""), "PUT KEY wrapping of " + string(a), "C_WrapKey CKM_AES_CBC", t.tryWrap(ctx, key.AES128, a)})
	}
	caps = append(caps,
		Capability{"retail_mac", "retail MAC (SCP02)", "CKM_DES3_CBC_ENCRYPT_DATA, CKM_DES3_CBC", t.tryRetail(ctx)},
		Capability{"wrap_tdea2", "PUT KEY wrapping of " + string(key.TDEA2), "C_WrapKey CKM_DES3_ECB", t.tryWrap(ctx, key.TDEA2, key.TDEA2)})
	caps = append(caps, Capability{"xor_key", "exclusive or with a key (Visa's script keys)", "CKM_XOR_BASE_AND_DATA", t.tryXOR(ctx)})
	caps = append(caps, Capability{"derive_scp11", "SCP11 key derivation", "CKM_ECDH1_DERIVE twice, CKM_CONCATENATE_BASE_AND_KEY, CKM_SHA256_KEY_DERIVATION", t.tryAgreement(ctx)})
	ed := t.tryKeyPair(ctx, key.Ed25519)
	caps = append(caps, Capability{"sign_ed25519", "Ed25519 signature (audit log)", "CKM_EDDSA", ed})
	caps = append(caps, Capability{"sign_p256", "ECDSA P-256 signature (audit log)", "CKM_ECDSA", t.tryKeyPair(ctx, key.P256)})
	return append(caps, Capability{"no_value_leaves", "no key value leaves", boundary, nil})
}

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
