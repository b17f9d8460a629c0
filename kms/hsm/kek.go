package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// A key-encryption key (KEK) brings keys of others into the token, wrapped, so that
// their values exist in no memory of this host. It is a token object that may only
// unwrap, and what it unwraps gets the template of its class, from templates.go.
// Nothing that serves cards reaches these methods: derive.Token has none of them.
//
// BUG: [P11] has CKA_UNWRAP_TEMPLATE to bind what a KEK brings in, inside the token.
// miekg/pkcs11 1.1.2 panics on attributes that are arrays of attributes, so it is
// not set. Whoever has the User PIN and a wrapped key can therefore have the KEK
// unwrap that key into a readable object, with a program of their own (kms/THREATS.md,
// re-import with a weak template). That is limited by keeping wrapped keys only as
// long as they are needed, and by destroying a KEK when all that it brings has come.

// WrapMethod names how a key is wrapped.
type WrapMethod string

// The methods.
const (
	AESKW  WrapMethod = "aes-kw"          // [RFC 3394], under AES-256
	AESKWP WrapMethod = "aes-kwp"         // [RFC 5649], under AES-256
	OAEP   WrapMethod = "rsa-oaep-sha256" // [RFC 8017], Section 7.1, SHA-256 and MGF1 with SHA-256, no label, under RSA-3072
)

// Algorithm returns the type of the KEK that a method needs, "" for no method.
func (m WrapMethod) Algorithm() key.Algorithm {
	switch m {
	case AESKW, AESKWP:
		return key.AES256
	case OAEP:
		return key.RSA3072
	}
	return ""
}

func (m WrapMethod) mechanism() *pkcs11.Mechanism {
	switch m {
	case AESKW:
		return pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)
	case AESKWP:
		return pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil)
	}
	return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

// Wrapped is a key under a KEK.
type Wrapped struct {
	KEK    string // label
	Method WrapMethod
	Blob   []byte
	KCV    key.KCV // what the sender says of the key
}

// blobMax is the length of an RSA-3072 ciphertext, the longest there is.
const blobMax = 384

// Check refuses a wrapped key that no token could bring in as this algorithm. The
// KEK must be as strong as the key at least ([PCI DSS] v4.0, 3.6.1.2).
func (w Wrapped) Check(a key.Algorithm) error {
	kek := w.Method.Algorithm()
	switch {
	case kek == "":
		return fault.New(fault.InvalidInput, "a key is wrapped by aes-kw, aes-kwp or rsa-oaep-sha256")
	case a.Size() == 0:
		return fault.New(fault.InvalidInput, "a key of this type is not brought in")
	case kek.Strength() < a.Strength():
		return fault.New(fault.InvalidInput, fmt.Sprintf("a key-encryption key of type %s is weaker than the %s key", kek, a))
	case len(w.Blob) != w.Method.length(a.Size()):
		return fault.New(fault.InvalidInput, fmt.Sprintf("a %s key under %s has %d bytes", a, w.Method, w.Method.length(a.Size())))
	case w.KCV.Method != key.MethodFor(a) || len(w.KCV.Value) != 6:
		return fault.New(fault.InvalidInput, fmt.Sprintf("the check value of a %s key is stated as %s:XXXXXX", a, key.MethodFor(a)))
	}
	return nil
}

// length returns how long a key of n bytes is when it is wrapped.
func (m WrapMethod) length(n int) int {
	if m == OAEP {
		return blobMax
	}
	return n + 8 // [RFC 3394], Section 2.2.1; n is a multiple of 8, so [RFC 5649] adds no more
}

// UnwrapRoot makes a root of a wrapped key. It counts only after its attributes were
// read back and its check value is the stated one; otherwise it is destroyed. The
// answer to a blob that was changed, a wrong KEK and a wrong check value is one.
//
// If the process dies between unwrapping and the comparison, the token holds an
// object that no row names: it serves nobody.
//
// BUG: a wrapped 3DES key is not looked at for weak or equal halves, because its
// value is never seen; its sender answers for that.
func (t *Token) UnwrapRoot(ctx context.Context, label string, a key.Algorithm, c derive.Class, w Wrapped) (derive.Root, error) {
	if err := w.Check(a); err != nil {
		return derive.Root{}, err
	}
	root, err := t.create(ctx, label, a, c, w.KCV, nil, func(s pkcs11.SessionHandle, p plan) (pkcs11.ObjectHandle, error) {
		kek, err := t.findKEK(s, w.KEK, w.Method.Algorithm())
		if err != nil {
			return 0, err
		}
		h, err := t.ctx.UnwrapKey(s, []*pkcs11.Mechanism{w.Method.mechanism()}, kek, w.Blob, p.template(c, a, true, name(label)...))
		return h, failed("C_UnwrapKey", err)
	})
	if notOpened(err) {
		return root, fault.Because(fault.ProofFailed, "the wrapped key does not open under this key-encryption key, or has another check value", err)
	}
	return root, err
}

// notOpened reports whether an error is about the wrapped key: a token says so by
// many return values, SoftHSM2 by CKR_GENERAL_ERROR. One that is busy or lost is
// another matter.
func notOpened(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Function == "C_UnwrapKey" && remedyFor(err) == giveUp
	}
	return fault.CodeOf(err) == fault.ProofFailed
}

// findKEK finds a KEK and compares what protects it.
func (t *Token) findKEK(s pkcs11.SessionHandle, label string, a key.Algorithm) (pkcs11.ObjectHandle, error) {
	if a == key.RSA3072 {
		h, err := t.find(s, label, pkcs11.CKO_PRIVATE_KEY)
		if err != nil {
			return 0, err
		}
		_, private := kekPairTemplates(label)
		return h, checking(label, compareAttributes(t.ctx, s, h, private))
	}
	h, err := t.find(s, label, pkcs11.CKO_SECRET_KEY)
	if err != nil {
		return 0, err
	}
	return h, checking(label, t.plan.verifyKEK(t.ctx, s, h))
}

func checking(label string, err error) error {
	if err != nil {
		return fmt.Errorf("checking %s: %w", label, err)
	}
	return nil
}

// CheckKEK finds a KEK and compares what protects it.
func (t *Token) CheckKEK(ctx context.Context, label string, a key.Algorithm) error {
	_, err := answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (pkcs11.ObjectHandle, error) {
		return t.findKEK(s, label, a)
	})
	return err
}

// ImportKEK makes an AES-256 KEK of a value that a key ceremony combined, and wipes
// the value whatever happens. There is no AES KEK that a token generates: nobody
// could wrap anything under it.
func (t *Token) ImportKEK(ctx context.Context, label string, value secret.Bytes) error {
	defer value.Wipe()
	if value.Len() != key.AES256.Size() {
		return fault.New(fault.InvalidInput, "a key-encryption key is an AES-256 key of 32 bytes")
	}
	copied := lend(value.Reveal())
	defer copied.back()
	return t.alone(ctx, func(ctx context.Context, s pkcs11.SessionHandle) error {
		if err := copied.take(); err != nil {
			return err
		}
		defer copied.value.Wipe()
		if err := t.unused(s, label); err != nil {
			return err
		}
		make := func(p plan) (pkcs11.ObjectHandle, error) {
			h, err := t.ctx.CreateObject(s, p.templateOf(kekRole(), key.AES256, true, append(name(label), pkcs11.NewAttribute(pkcs11.CKA_VALUE, copied.value.Reveal()))...))
			return h, failed("C_CreateObject", err)
		}
		h, err := make(t.plan)
		if err != nil && remedyFor(err) == giveUp {
			h, err = make(t.plan.withoutOptional()) // see create
		}
		if err != nil {
			return err
		}
		if err := t.plan.verifyKEK(t.ctx, s, h); err != nil {
			_ = t.ctx.DestroyObject(s, h)
			return err
		}
		return t.unheard(ctx, s, h)
	})
}

// rsaWait is how long a token may look for the primes of a KEK.
const rsaWait = 5 * time.Minute

// GenerateKEK makes an RSA-3072 KEK and returns its public half, for whoever sends
// keys. A token that cannot unwrap RSA-OAEP with SHA-256 is fault.TokenUnable and
// keeps no pair: it is never done with SHA-1 instead. SoftHSM2 2.6.1 is such a one,
// it answers CKR_ARGUMENTS_BAD.
func (t *Token) GenerateKEK(ctx context.Context, label string) (*rsa.PublicKey, error) {
	return ceremonyWithin(ctx, t, rsaWait, func(ctx context.Context, s pkcs11.SessionHandle) (*rsa.PublicKey, error) {
		if err := t.unused(s, label); err != nil {
			return nil, err
		}
		pub, priv := kekPairTemplates(label)
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}
		hpub, hpriv, err := t.ctx.GenerateKeyPair(s, m, pub, priv)
		if err != nil {
			return nil, failed("C_GenerateKeyPair", err)
		}
		public, err := t.publicRSA(s, hpub)
		if err == nil {
			err = compareAttributes(t.ctx, s, hpriv, priv)
		}
		if err == nil {
			err = t.tryOAEP(s, hpriv, public)
		}
		if err == nil {
			err = heard(ctx)
		}
		if err != nil {
			_, _ = t.ctx.DestroyObject(s, hpub), t.ctx.DestroyObject(s, hpriv)
		}
		return public, err
	})
}

// DestroyKEK removes a KEK for good. What has not the attributes of a KEK is refused,
// whatever its label.
func (t *Token) DestroyKEK(ctx context.Context, label string) error {
	return t.alone(ctx, func(_ context.Context, s pkcs11.SessionHandle) error {
		h, err := t.findKEK(s, label, key.AES256)
		if err == nil {
			return failed("C_DestroyObject", t.ctx.DestroyObject(s, h))
		}
		if _, rsaErr := t.findKEK(s, label, key.RSA3072); rsaErr != nil {
			return err
		}
		return t.destroyPair(s, label)
	})
}

// PublicKEK returns the public half of an RSA KEK, as its private object has it: nobody
// needs a PIN to put another public object in the place of ours.
func (t *Token) PublicKEK(ctx context.Context, label string) (*rsa.PublicKey, error) {
	return answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (*rsa.PublicKey, error) {
		h, err := t.findKEK(s, label, key.RSA3072)
		if err != nil {
			return nil, err
		}
		return t.publicRSA(s, h)
	})
}

func (t *Token) publicRSA(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (*rsa.PublicKey, error) {
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil)})
	if err != nil {
		return nil, failed("C_GetAttributeValue", err)
	}
	e := new(big.Int).SetBytes(got[1].Value)
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(got[0].Value), E: int(e.Int64())}
	if k.N.BitLen() != 3072 || e.Cmp(big.NewInt(65537)) != 0 {
		return nil, fault.New(fault.KeyState, "the key-encryption key is no RSA-3072 key with the exponent 65537")
	}
	return k, nil
}

// tryOAEP has the token unwrap a known value and compares a block under it.
func (t *Token) tryOAEP(s pkcs11.SessionHandle, private pkcs11.ObjectHandle, public *rsa.PublicKey) error {
	blob, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, zeros16, nil)
	if err != nil {
		return fmt.Errorf("wrapping a known value: %w", err)
	}
	template := t.plan.template(derive.PackageENC, key.AES128, false)
	h, err := t.ctx.UnwrapKey(s, []*pkcs11.Mechanism{OAEP.mechanism()}, private, blob, template)
	if err != nil {
		return fault.Because(fault.TokenUnable, "the token cannot unwrap RSA-OAEP with SHA-256, and SHA-1 is not used instead", failed("C_UnwrapKey", err))
	}
	defer func() { _ = t.ctx.DestroyObject(s, h) }()
	unwrapped := derive.FromRoot(derive.Root{Class: derive.PackageENC, Algorithm: key.AES128})
	enc, err := t.encryptCBC(s, &object{handle: h, key: unwrapped}, zeros16)
	// AES-128 of a zero block under the zero key: see tryCBC.
	if err == nil && subtle.ConstantTimeCompare(enc, unhex("66E94BD4EF8A2C3B884CFA59CA342B2E")) != 1 {
		err = fault.New(fault.TokenUnable, "the token unwraps another key than was wrapped")
	}
	return err
}
