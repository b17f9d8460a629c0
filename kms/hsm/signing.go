package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// probeKCV is the check value of the key in tryDerivation.
const probeKCV = "6C9FC8"

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("hsm: " + s + " is not hexadecimal")
	}
	return b
}

// curves gives CKA_EC_PARAMS: edwards25519 as a PrintableString, the form that
// SoftHSM2 and [P11] 3.0 know, and the object identifier of P-256.
var curves = map[key.Algorithm][]byte{
	key.Ed25519: append([]byte{0x13, 0x0C}, "edwards25519"...),
	key.P256:    {0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07},
}

// SigningKey is a key pair of the token that signs checkpoints of the audit log.
type SigningKey struct {
	token     *Token
	label     string
	Algorithm key.Algorithm
	Public    []byte // Ed25519: 32 bytes; ECDSA P-256: 65 bytes, uncompressed
}

// PreferredSigning returns Ed25519 where the token has it, else ECDSA P-256.
func (t *Token) PreferredSigning() key.Algorithm {
	for _, c := range t.caps {
		if c.Plan == "CKM_EDDSA" && c.Err == nil {
			return key.Ed25519
		}
	}
	return key.P256
}

func keyPairTemplates(a key.Algorithm, token bool) (mech uint, public, private []*pkcs11.Attribute) {
	mech, kt, sign := uint(pkcs11.CKM_EC_KEY_PAIR_GEN), uint(pkcs11.CKK_EC), uint(pkcs11.CKM_ECDSA)
	if a == key.Ed25519 {
		mech, kt, sign = ckmEdwardsKeyPair, ckkECEdwards, ckmEDDSA
	}
	public = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kt),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curves[a]),
	}
	private = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kt),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
		// Last, because a token may not keep it.
		pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, ulongs([]uint{sign})),
	}
	return mech, public, private
}

func (t *Token) keyPair(s pkcs11.SessionHandle, a key.Algorithm, label string, token bool) (pub, priv pkcs11.ObjectHandle, err error) {
	mech, public, private := keyPairTemplates(a, token)
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}
	bare := private[: len(private)-1 : len(private)-1] // without CKA_ALLOWED_MECHANISMS
	if !t.plan.allowed {
		private = bare
	}
	make := func(private []*pkcs11.Attribute) error {
		pub, priv, err = t.ctx.GenerateKeyPair(s, m, locked(append(public, name(label)...)), locked(append(private, name(label)...)))
		return failed("C_GenerateKeyPair", err)
	}
	if err = make(private); err != nil && remedyFor(err) == giveUp && token && t.plan.allowed {
		err = make(bare) // see create: a database that cannot keep the attribute
	}
	return pub, priv, err
}

// tryKeyPair signs with a throw-away pair and verifies outside the token.
func (t *Token) tryKeyPair(ctx context.Context, a key.Algorithm) error {
	return t.alone(ctx, func(_ context.Context, s pkcs11.SessionHandle) error {
		pub, priv, err := t.keyPair(s, a, "cardkms-probe-sign", false)
		if err != nil {
			return err
		}
		defer func() { _, _ = t.ctx.DestroyObject(s, pub), t.ctx.DestroyObject(s, priv) }()
		point, err := t.publicPoint(s, pub, a)
		if err != nil {
			return err
		}
		message := sha256.Sum256([]byte("cardkms signature check"))
		sig, err := t.signWith(s, priv, a, message[:])
		if err != nil {
			return err
		}
		if !verifySignature(a, point, message[:], sig) {
			return fault.New(fault.TokenUnable, "the token's signature does not verify")
		}
		return nil
	})
}

func verifySignature(a key.Algorithm, point, input, sig []byte) bool {
	if a == key.Ed25519 {
		return len(point) == ed25519.PublicKeySize && ed25519.Verify(point, input, sig)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil || len(sig) != 64 {
		return false
	}
	return ecdsa.Verify(pub, input, new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}

// publicPoint reads CKA_EC_POINT, which tokens give as an OCTET STRING or raw.
func (t *Token) publicPoint(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, a key.Algorithm) ([]byte, error) {
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, failed("C_GetAttributeValue", err)
	}
	want := 65
	if a == key.Ed25519 {
		want = ed25519.PublicKeySize
	}
	p := got[0].Value
	var octets []byte
	if rest, err := asn1.Unmarshal(p, &octets); err == nil && len(rest) == 0 {
		p = octets
	}
	if len(p) != want {
		return nil, fmt.Errorf("hsm: the public key has %d bytes, want %d", len(p), want)
	}
	return bytes.Clone(p), nil
}

// signWith returns an Ed25519 signature over a message, or an ECDSA signature
// r | s, 32 bytes each, over a SHA-256 digest.
func (t *Token) signWith(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, a key.Algorithm, input []byte) ([]byte, error) {
	if a == key.Ed25519 {
		return t.sign(s, h, ckmEDDSA, input)
	}
	return t.sign(s, h, pkcs11.CKM_ECDSA, input)
}

// GenerateSigning makes a signing key pair as token objects. A label that is in
// use is fault.Conflict.
func (t *Token) GenerateSigning(ctx context.Context, label string, a key.Algorithm) (*SigningKey, error) {
	err := t.alone(ctx, func(ctx context.Context, s pkcs11.SessionHandle) error {
		if err := t.unused(s, label); err != nil {
			return err
		}
		pub, priv, err := t.keyPair(s, a, label, true)
		if err != nil {
			return err
		}
		return t.unheard(ctx, s, pub, priv)
	})
	if err != nil {
		return nil, err
	}
	return t.Signing(ctx, label)
}

// Signing finds a signing key pair; its type is the token's to say.
func (t *Token) Signing(ctx context.Context, label string) (*SigningKey, error) {
	return answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (*SigningKey, error) {
		k := &SigningKey{token: t, label: label}
		h, err := t.find(s, label, pkcs11.CKO_PUBLIC_KEY)
		if err != nil {
			return nil, err
		}
		for _, a := range []key.Algorithm{key.Ed25519, key.P256} {
			params := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curves[a])}
			if compareAttributes(t.ctx, s, h, params) == nil {
				k.Algorithm = a
			}
		}
		if k.Algorithm == "" {
			return nil, fault.New(fault.KeyState, label+" is a key on a curve that the log does not use")
		}
		if k.Public, err = t.publicPoint(s, h, k.Algorithm); err != nil {
			return nil, err
		}
		return k, t.checkPrivate(s, label, k.Algorithm)
	})
}

// checkPrivate refuses a private key that is protected less than ours are, e.g.
// one that somebody imported under our name.
func (t *Token) checkPrivate(s pkcs11.SessionHandle, label string, a key.Algorithm) error {
	h, err := t.find(s, label, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return err
	}
	_, _, private := keyPairTemplates(a, true)
	if !t.plan.allowed {
		private = private[:len(private)-1]
	}
	if err := compareAttributes(t.ctx, s, h, kept(t.ctx, s, h, locked(private))); err != nil {
		return fmt.Errorf("checking %s: %w", label, err)
	}
	return nil
}

// Sign signs a message with Ed25519, or its SHA-256 digest with ECDSA P-256; the
// signature has 64 bytes. The handle is searched each time: checkpoints are signed
// about once a second, and a handle kept here could outlive the library's life.
func (k *SigningKey) Sign(ctx context.Context, input []byte) (sig []byte, err error) {
	sig, err = answer(ctx, k.token, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) ([]byte, error) {
		h, err := k.token.find(s, k.label, pkcs11.CKO_PRIVATE_KEY)
		if err != nil {
			return nil, err
		}
		return k.token.signWith(s, h, k.Algorithm, input)
	})
	if err != nil {
		return nil, err
	}
	if !verifySignature(k.Algorithm, k.Public, input, sig) {
		return nil, fault.New(fault.KeyState, "the token signed with another key than "+k.label)
	}
	return sig, nil
}
