package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// The host's pairs of SCP11. One that lives in the token has a public object of the same
// label, which nobody needs a PIN to put another one in the place of: so whoever asks for the
// public half has the token prove that the halves belong together.

// agrees says why the token serves no SCP11, nil if it does: a pair in it would be of no use.
func (t *Token) agrees() error {
	for _, c := range t.caps {
		if c.Word == "derive_scp11" && c.Err != nil {
			return fault.Because(fault.TokenUnable, "the token does not derive the keys of SCP11 inside ("+c.Plan+"); cardkmsd probe says what it lacks", c.Err)
		}
	}
	return nil
}

// Ephemeral implements derive.Agreer. The public object is destroyed at once: one call made
// both halves. What the token is called is its caller's to say.
func (t *Token) Ephemeral(ctx context.Context, token string) (k *derive.Key, public *ecdh.PublicKey, err error) {
	if err := t.agrees(); err != nil {
		return nil, nil, err
	}
	k = fleetingRoot(token, "cardkms-ephemeral", key.ECP256, derive.Agreeing)
	public, err = answer(ctx, t, nil, func(ctx context.Context, s pkcs11.SessionHandle, _ *object) (*ecdh.PublicKey, error) {
		var pub pkcs11.ObjectHandle
		w, priv, err := t.inOwner(ctx, k, func(own pkcs11.SessionHandle) (priv pkcs11.ObjectHandle, err error) {
			pub, priv, err = t.generateTwo(own, false, k.Root().Label)
			return priv, err
		})
		if err != nil {
			return nil, err
		}
		defer func() { _ = t.ctx.DestroyObject(s, pub) }()
		point, err := t.point(s, pub)
		return point, t.keepFleeting(ctx, s, &object{handle: priv, key: k, owner: w}, err)
	})
	return k, public, err
}

func (t *Token) generateTwo(s pkcs11.SessionHandle, token bool, label string) (pub, priv pkcs11.ObjectHandle, err error) {
	public, private := pairTemplates(token, name(label)...)
	pub, priv, err = t.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
	return pub, priv, failed("C_GenerateKeyPair", err)
}

// point reads a public object of P-256.
func (t *Token) point(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (*ecdh.PublicKey, error) {
	b, err := t.publicPoint(s, h, key.P256)
	if err != nil {
		return nil, err
	}
	public, err := ecdh.P256().NewPublicKey(b)
	if err != nil {
		return nil, fault.New(fault.KeyState, "a public key of the token is not on P-256")
	}
	return public, nil
}

// importPair makes an Agreeing key of a known value, for known answers only.
func (t *Token) importPair(ctx context.Context, label string, scalar []byte) (k *derive.Key, forget func(), err error) {
	if _, err := ecdh.P256().NewPrivateKey(scalar); err != nil {
		return nil, nil, fault.New(fault.InvalidInput, "this is no private key of P-256")
	}
	k = fleetingRoot("", label, key.ECP256, derive.Agreeing)
	_, err = answer(ctx, t, nil, func(ctx context.Context, s pkcs11.SessionHandle, _ *object) (nothing, error) {
		w, h, err := t.inOwner(ctx, k, func(own pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
			h, err := t.ctx.CreateObject(own, importedPair(scalar))
			return h, failed("C_CreateObject", err)
		})
		if err != nil {
			return nothing{}, err
		}
		return nothing{}, t.keepFleeting(ctx, s, &object{handle: h, key: k, owner: w}, nil)
	})
	return k, func() { t.Release(k) }, err
}

// generatePair makes a pair that lives in the token.
func (t *Token) generatePair(ctx context.Context, label string) (derive.Root, error) {
	root := derive.Root{Label: label, Algorithm: key.ECP256, Class: derive.Agreeing}
	if err := t.agrees(); err != nil {
		return root, err
	}
	return ceremony(ctx, t, func(ctx context.Context, s pkcs11.SessionHandle) (derive.Root, error) {
		root := root
		if err := t.unused(s, label); err != nil {
			return root, err
		}
		pub, priv, err := t.generateTwo(s, true, label)
		if err != nil {
			return root, err
		}
		if err = t.plan.verify(t.ctx, s, priv, root.Class, root.Algorithm, true); err == nil {
			root.KCV, err = t.rootKCV(s, &object{handle: priv, key: derive.FromRoot(root)})
		}
		if err == nil {
			err = heard(ctx)
		}
		if err != nil {
			_, _ = t.ctx.DestroyObject(s, pub), t.ctx.DestroyObject(s, priv)
		}
		return root, err
	})
}

// Public returns the public half of a pair that lives in the token.
func (t *Token) Public(ctx context.Context, r derive.Root) (*ecdh.PublicKey, error) {
	k := derive.FromRoot(r)
	if err := require(k, derive.Agreeing); err != nil {
		return nil, err
	}
	return answer(ctx, t, k, func(_ context.Context, s pkcs11.SessionHandle, o *object) (*ecdh.PublicKey, error) {
		if r.Public == "" {
			defer t.roots.drop(r.Label) // whoever learns it refers to the pair by it from now on
		}
		return t.public(s, o)
	})
}

// public reads the public half of a pair, and compares what the private half makes of a
// secret that it shares with the host with what the public one does: the HMAC of a constant.
func (t *Token) public(s pkcs11.SessionHandle, o *object) (*ecdh.PublicKey, error) {
	h, err := t.find(s, o.key.Root().Label, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	public, err := t.point(s, h)
	if err != nil {
		return nil, err
	}
	ours, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := ours.ECDH(public)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	d := deriver{t: t, s: s}
	defer d.end()
	secret := d.agree(o.handle, ours.PublicKey(), provingSecret())
	if d.err != nil {
		return nil, d.err
	}
	got, err := t.sign(s, secret, pkcs11.CKM_SHA256_HMAC, provingMessage)
	if err != nil {
		return nil, err
	}
	want := hmac.New(sha256.New, shared)
	want.Write(provingMessage)
	if !hmac.Equal(got, want.Sum(nil)) {
		return nil, fault.New(fault.KeyState, fmt.Sprintf("the public half of %s is not that of its private half", o.key.Root().Label))
	}
	return public, nil
}

var provingMessage = []byte("cardkms: the halves of a pair")
