package hsm

import (
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/key"
)

var _ derive.Agreer = (*Token)(nil)

// The derivation of SCP11 inside the token: two agreements on P-256, whose results are put
// one behind the other, and the KDF of [X9.63] with SHA-256 over them, step by step. Each
// object on the way may do nothing but derive, and only the keys at the end and what all of
// them follow from stay longer than a call.

// agreedBytes is the length of two secrets of P-256.
const agreedBytes = 64

// Agree implements derive.Agreer.
func (t *Token) Agree(ctx context.Context, ours [2]*derive.Key, peers [2]*ecdh.PublicKey) (*derive.Key, error) {
	for _, k := range ours {
		if err := require(k, derive.Agreeing); err != nil {
			return nil, err
		}
	}
	z := fleetingRoot(ours[0].Token(), "cardkms-agreed", "", derive.Agreed)
	_, err := answer(ctx, t, nil, func(ctx context.Context, s pkcs11.SessionHandle, _ *object) (nothing, error) {
		d := deriver{t: t, s: s}
		defer d.end()
		var shared [2]pkcs11.ObjectHandle
		for i, k := range ours {
			o, err := t.acquire(ctx, s, k)
			if err != nil {
				return nothing{}, err
			}
			shared[i] = d.agree(o.handle, peers[i], agreedSecret(agreedBytes/2))
			if d.err != nil {
				return nothing{}, t.ended(o, d.err)
			}
		}
		return nothing{}, t.concatenate(ctx, s, z, shared)
	})
	return z, err
}

// concatenate makes the object of z, which lives on.
func (t *Token) concatenate(ctx context.Context, s pkcs11.SessionHandle, z *derive.Key, shared [2]pkcs11.ObjectHandle) error {
	m := pkcs11.NewMechanism(pkcs11.CKM_CONCATENATE_BASE_AND_KEY, ulongs([]uint{uint(shared[1])}))
	w, h, err := t.inOwner(ctx, z, func(own pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
		h, err := t.ctx.DeriveKey(own, []*pkcs11.Mechanism{m}, shared[0], agreedSecret(agreedBytes))
		return h, failed("C_DeriveKey", err)
	})
	if err != nil {
		return fmt.Errorf("CKM_CONCATENATE_BASE_AND_KEY: %w", err)
	}
	return t.keepFleeting(ctx, s, &object{handle: h, key: z, owner: w}, nil)
}

// pieceOf returns the mechanism that makes a key of a secret that was agreed on, and the
// object that it makes it of: H(n) of [X9.63], Section 5.6.3, in which the key lies whole.
// done destroys that again.
func (t *Token) pieceOf(s pkcs11.SessionHandle, z *object, step derive.Step) (from pkcs11.ObjectHandle, m *pkcs11.Mechanism, done func(), err error) {
	const hashBytes = 32
	at, in := int(step.Offset)/hashBytes, int(step.Offset)%hashBytes
	if step.Algorithm != key.AES128 || in+step.Algorithm.Size() > hashBytes {
		return 0, nil, nil, fmt.Errorf("hsm: a %s key at byte %d does not lie in one hash value", step.Algorithm, step.Offset)
	}
	d := &deriver{t: t, s: s}
	data := append(binary.BigEndian.AppendUint32(nil, uint32(at+1)), step.After...)
	input := d.withData(z.handle, agreedBytes, data)
	d.err = t.ended(z, d.err)
	hash := d.secret("CKM_SHA256_KEY_DERIVATION", input, hashBytes, pkcs11.CKM_SHA256_KEY_DERIVATION)
	if d.err != nil {
		d.end()
		return 0, nil, nil, d.err
	}
	return hash, pkcs11.NewMechanism(pkcs11.CKM_EXTRACT_KEY_FROM_KEY, ulongs([]uint{uint(in) * 8})), d.end, nil
}

// deriver makes session objects one from another until something fails, and remembers
// what it made.
type deriver struct {
	t    *Token
	s    pkcs11.SessionHandle
	made []pkcs11.ObjectHandle
	err  error
}

func (d *deriver) end() {
	for _, h := range d.made {
		_ = d.t.ctx.DestroyObject(d.s, h)
	}
}

// derive makes an object, or keeps the first error, which says what the token did not do.
func (d *deriver) derive(what string, base pkcs11.ObjectHandle, m *pkcs11.Mechanism, template []*pkcs11.Attribute) pkcs11.ObjectHandle {
	if d.err != nil {
		return 0
	}
	h, err := d.t.ctx.DeriveKey(d.s, []*pkcs11.Mechanism{m}, base, template)
	if err != nil {
		d.err = fmt.Errorf("%s: %w", what, failed("C_DeriveKey", err))
		return 0
	}
	d.made = append(d.made, h)
	return h
}

// secret derives a secret of this many bytes that does nothing but derive.
func (d *deriver) secret(what string, base pkcs11.ObjectHandle, length int, mech uint) pkcs11.ObjectHandle {
	return d.derive(what, base, pkcs11.NewMechanism(mech, nil), agreedSecret(length))
}

// withData appends public bytes to a secret.
func (d *deriver) withData(base pkcs11.ObjectHandle, length int, data []byte) pkcs11.ObjectHandle {
	m, done := stringDataMechanism(pkcs11.CKM_CONCATENATE_BASE_AND_DATA, data)
	defer done()
	return d.derive("CKM_CONCATENATE_BASE_AND_DATA", base, m, agreedSecret(length+len(data)))
}

// agree makes the secret that a private key shares with its peer.
func (d *deriver) agree(private pkcs11.ObjectHandle, peer *ecdh.PublicKey, template []*pkcs11.Attribute) pkcs11.ObjectHandle {
	m := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, peer.Bytes()))
	return d.derive("CKM_ECDH1_DERIVE", private, m, template)
}

// tryAgreement runs self-scp11b of the vectors: the receipt of a card, under the first
// of the keys.
func (t *Token) tryAgreement(ctx context.Context) error {
	receipt := unhex("A60D9002110095013C8001888101105F4941048F32FC7558FE299E3BD15E48424EEFD55AFEB42A1B43B9A9F6CC119B971CBF56" +
		"C7AA7F31FAF75639FBB8AE895623C99B6BDA195A4007B9F71E7EFB75F28155845F494104AAAA432EA851EF86004C491BFAE0DD5E83EFE1E43F8E256B64323C5C" +
		"F4D567BDF3D2745612B892522366E861A3045A8278E00448F63846C42A6594D3A99D707E")
	ours, forget, err := t.importPair(ctx, "cardkms-probe-agreement", unhex("5AD7D1A5B06E4FDFF21B275985ABDC8B8BE3CCBD3AD3187CBB34B097203CD763"))
	if err != nil {
		return err
	}
	defer forget()
	var peers [2]*ecdh.PublicKey
	static := unhex("04FCBFA3D0A71266C4263D093CBA0BAFBFD36F666A0719A97ACBAA2C274E8C4150CD4DBBC90C29D0BB2C6A58DB153CA1CA2D089646E4193841DE58474BC03239C5")
	for i, point := range [][]byte{receipt[len(receipt)-65:], static} {
		if peers[i], err = ecdh.P256().NewPublicKey(point); err != nil {
			return err
		}
	}
	z, err := t.Agree(ctx, [2]*derive.Key{ours, ours}, peers)
	if err != nil {
		return err
	}
	k := z.Derive(derive.Step{Function: derive.X963, After: unhex("3C8810"), Class: derive.SessionMAC, Algorithm: key.AES128})
	defer t.Release(k, z)
	mac, err := t.MAC(ctx, k, receipt)
	return expect(mac, err, "D17C1933EC8E486848E02017ACC69D25")
}
