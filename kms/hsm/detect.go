package hsm

import (
	"bytes"
	"context"
	"errors"

	"github.com/miekg/pkcs11"

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

	try func(context.Context) error
}

// Capabilities returns what the token was found able to do, in a fixed order.
func (t *Token) Capabilities() []Capability { return t.caps }

// detect tries what the service needs, on throw-away session keys. They end with the library's
// life, so what was found while it began anew says nothing of the token.
func (t *Token) detect(ctx context.Context) error {
	before, err := t.lifeNow(ctx)
	if err != nil {
		return err
	}
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
	if t.caps, err = t.tryAll(ctx); err != nil {
		return err
	}
	after, err := t.lifeNow(ctx)
	if err == nil && after != before {
		err = fault.New(fault.TokenUnavailable, "the token was lost while it was tried")
	}
	return err
}

// lifeNow returns which life the token's library is in. It waits no longer than for the
// call that it stands beside: another token's may have the library to itself, and hang.
func (t *Token) lifeNow(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.slowly())
	defer cancel()
	if err := t.life.RLock(ctx); err != nil {
		return 0, err
	}
	defer t.life.RUnlock()
	return t.epoch, nil
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
// is all zeros: the answers are constants of the algorithms. What does not answer may be
// able, so the first of these is the error, and nothing is tried after it.
func (t *Token) tryAll(ctx context.Context) ([]Capability, error) {
	caps := t.needed()
	for i, c := range caps {
		err := c.try(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil, err
		}
		caps[i].Err = err
	}
	boundary := "by software: the token would derive readable keys, this service does not ask"
	switch {
	case caps[0].Err != nil:
		boundary = "not seen: the token derives no keys at all"
	case t.plan.enforced:
		boundary = "enforced by the token"
	}
	return append(caps, Capability{Word: "no_value_leaves", Operation: "no key value leaves", Plan: boundary}), nil
}

// needed are the operations that are tried, in the order of Capabilities.
func (t *Token) needed() []Capability {
	kdf := "composed from CKM_AES_ECB_ENCRYPT_DATA"
	if t.plan.native {
		kdf = "native CKM_SP800_108_COUNTER_KDF"
	}
	wrap := func(under, a key.Algorithm) func(context.Context) error {
		return func(ctx context.Context) error { return t.tryWrap(ctx, under, a) }
	}
	pair := func(a key.Algorithm) func(context.Context) error {
		return func(ctx context.Context) error { return t.tryKeyPair(ctx, a) }
	}
	return []Capability{
		{"derive_aes", "AES-CMAC key derivation (SCP03, KDF3, CUP-1)", kdf, nil, t.tryDerivation},
		{"aes_cbc", "AES-CBC", "CKM_AES_CBC", nil, t.tryCBC},
		{"derive_tdea", "3DES diversification (VISA2, EMV CPS)", "CKM_DES3_ECB_ENCRYPT_DATA", nil, t.tryTDEA},
		{"wrap_aes128", "PUT KEY wrapping of " + string(key.AES128), "C_WrapKey CKM_AES_CBC", nil, wrap(key.AES128, key.AES128)},
		{"wrap_aes192", "PUT KEY wrapping of " + string(key.AES192), "C_WrapKey CKM_AES_CBC", nil, wrap(key.AES128, key.AES192)},
		{"wrap_aes256", "PUT KEY wrapping of " + string(key.AES256), "C_WrapKey CKM_AES_CBC", nil, wrap(key.AES128, key.AES256)},
		{"retail_mac", "retail MAC (SCP02)", "CKM_DES3_CBC_ENCRYPT_DATA, CKM_DES3_CBC", nil, t.tryRetail},
		{"wrap_tdea2", "PUT KEY wrapping of " + string(key.TDEA2), "C_WrapKey CKM_DES3_ECB", nil, wrap(key.TDEA2, key.TDEA2)},
		{"xor_key", "exclusive or with a key (Visa's script keys)", "CKM_XOR_BASE_AND_DATA", nil, t.tryXOR},
		{"derive_scp11", "SCP11 key derivation", "CKM_ECDH1_DERIVE twice, CKM_CONCATENATE_BASE_AND_KEY, CKM_SHA256_KEY_DERIVATION", nil, t.tryAgreement},
		{"sign_ed25519", "Ed25519 signature (audit log)", "CKM_EDDSA", nil, pair(key.Ed25519)},
		{"sign_p256", "ECDSA P-256 signature (audit log)", "CKM_ECDSA", nil, pair(key.P256)},
	}
}
