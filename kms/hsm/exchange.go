package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// Key components that are entered on different days wait encrypted to a pair of the
// token that exists for this one import. Its private half may only agree on a secret
// (CKM_ECDH1_DERIVE), leaves the token never, and is destroyed with the import: then
// nothing opens what was kept of the components, in whatever backup it lies.

// GenerateExchange makes a P-256 pair for one import. A label that is in use is
// fault.Conflict.
func (t *Token) GenerateExchange(ctx context.Context, label string) (*ecdh.PublicKey, error) {
	err := t.alone(ctx, func(ctx context.Context, s pkcs11.SessionHandle) error {
		if err := t.unused(s, label); err != nil {
			return err
		}
		pub, priv, err := t.generateTwo(s, true, label)
		if err != nil {
			return err
		}
		return t.unheard(ctx, s, pub, priv)
	})
	if err != nil {
		return nil, err
	}
	return t.ExchangeKey(ctx, label)
}

// ExchangeKey returns the public half of a pair, compares what protects the private
// half, and has the token prove that the halves belong together: nobody needs a PIN to
// put another public object in the place of ours.
func (t *Token) ExchangeKey(ctx context.Context, label string) (public *ecdh.PublicKey, err error) {
	public, err = answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (*ecdh.PublicKey, error) {
		h, err := t.find(s, label, pkcs11.CKO_PUBLIC_KEY)
		if err != nil {
			return nil, err
		}
		point, err := t.publicPoint(s, h, key.P256)
		if err != nil {
			return nil, err
		}
		public, err := ecdh.P256().NewPublicKey(point)
		if err != nil {
			return nil, fault.New(fault.KeyState, "the pair for components is not on P-256")
		}
		_, err = t.findExchange(s, label)
		return public, err
	})
	if err != nil {
		return nil, err
	}
	ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	want, err := ephemeral.ECDH(public)
	if err != nil {
		return nil, err
	}
	defer clear(want)
	z, err := t.Exchange(ctx, label, ephemeral.PublicKey())
	if err != nil {
		return nil, err
	}
	defer z.Wipe()
	if !z.Equal(secret.New(want)) {
		return nil, fault.New(fault.KeyState, "the public half of the pair for components is not that of its private half")
	}
	return public, nil
}

func (t *Token) findExchange(s pkcs11.SessionHandle, label string) (pkcs11.ObjectHandle, error) {
	h, err := t.find(s, label, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return 0, err
	}
	_, private := pairTemplates(true, name(label)...)
	return h, checking(label, compareAttributes(t.ctx, s, h, private))
}

// Exchange returns the shared secret with a peer: the x-coordinate of the point,
// 32 bytes, as [RFC 9180], Section 4.1, has it. It is the key of one encrypted
// component and no key of the service; the caller wipes it.
func (t *Token) Exchange(ctx context.Context, label string, peer *ecdh.PublicKey) (secret.Bytes, error) {
	return answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (z secret.Bytes, err error) {
		private, err := t.findExchange(s, label)
		if err != nil {
			return z, err
		}
		p := pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, peer.Bytes())
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, p)}
		h, err := t.ctx.DeriveKey(s, m, private, readableTemplate(32))
		if err != nil {
			return z, failed("C_DeriveKey", err)
		}
		b, err := t.readOnce(s, h, 32)
		return secret.New(b), err
	})
}

// DestroyExchange removes a pair for good, as far as it is there.
func (t *Token) DestroyExchange(ctx context.Context, label string) error {
	return t.alone(ctx, func(_ context.Context, s pkcs11.SessionHandle) error { return t.destroyPair(s, label) })
}

func (t *Token) destroyPair(s pkcs11.SessionHandle, label string) error {
	_, err := t.destroyHalves(s, label)
	return err
}

// destroyHalves returns how many objects of a pair it destroyed, the public one first: if the
// process dies in between, the private half still says that there is a pair.
func (t *Token) destroyHalves(s pkcs11.SessionHandle, label string) (halves int, err error) {
	for _, class := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY} {
		hs, err := t.findAll(s, append(name(label), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)))
		if err != nil {
			return halves, err
		}
		for _, h := range hs {
			if err := t.ctx.DestroyObject(s, h); err != nil {
				return halves, failed("C_DestroyObject", err)
			}
			halves++
		}
	}
	return halves, nil
}
