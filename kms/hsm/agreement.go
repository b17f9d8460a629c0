package hsm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/key"
)

// The service speaks no SCP11 ([AmdF] GlobalPlatform Card Technology, Secure Channel
// Protocol '11', as two independent implementations have it). This says whether a token
// could do its derivation inside, where it is an agreement on P-256 between two pairs of
// the host and two of a card, and proves it by known answers.

// agreedKeys is how many keys SCP11 derives: for the receipt, S-ENC, S-MAC, S-RMAC, DEK.
const agreedKeys = 5

// AgreementMACs derives the AES-128 keys of SCP11 inside the token and returns what each
// computes with AES-CMAC over a message, by which a known answer tells them apart. ours are
// private scalars of 32 bytes and peers public points of 65, the ephemeral ones first; info
// is key usage, type and length. The private keys are imported as session objects; every
// object is destroyed again.
//
//	Z = ECDH(ours 0, peer 0) | ECDH(ours 1, peer 1)
//	H(n) = SHA-256(Z | n as 4 bytes | info), n = 1, 2, 3
//	keys = the first five 16-byte pieces of H(1) | H(2) | H(3)
//
// which is the KDF of [X9.63] ANSI X9.63-2011, Section 5.6.3, with SHA-256.
func (t *Token) AgreementMACs(ctx context.Context, ours, peers [2][]byte, info, message []byte) (macs [agreedKeys][]byte, err error) {
	err = t.do(ctx, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) error {
		d := deriver{t: t, s: s}
		defer d.end()
		z := d.secret("CKM_CONCATENATE_BASE_AND_KEY", d.agree(ours[0], peers[0]), 64, pkcs11.CKM_CONCATENATE_BASE_AND_KEY, ulongs([]uint{uint(d.agree(ours[1], peers[1]))}))
		for i := range macs {
			data := binary.BigEndian.AppendUint32(nil, uint32(i/2+1))
			input := d.withData(z, 64, append(data, info...))
			hash := d.secret("CKM_SHA256_KEY_DERIVATION", input, 32, pkcs11.CKM_SHA256_KEY_DERIVATION, nil)
			offset := uint(i % 2 * 128) // bits
			k := d.derive("CKM_EXTRACT_KEY_FROM_KEY", hash, pkcs11.NewMechanism(pkcs11.CKM_EXTRACT_KEY_FROM_KEY, ulongs([]uint{offset})),
				t.plan.template(derive.SessionMAC, key.AES128, false, size(key.AES128)...))
			if d.err != nil {
				return d.err
			}
			if macs[i], err = t.sign(s, k, pkcs11.CKM_AES_CMAC, message); err != nil {
				return err
			}
		}
		return nil
	})
	return macs, err
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

// keep takes a new object, or the first error, which says what the token did not do.
func (d *deriver) keep(what string, h pkcs11.ObjectHandle, err error) pkcs11.ObjectHandle {
	if err != nil {
		d.err = fmt.Errorf("%s: %w", what, err)
		return 0
	}
	d.made = append(d.made, h)
	return h
}

func (d *deriver) derive(what string, base pkcs11.ObjectHandle, m *pkcs11.Mechanism, template []*pkcs11.Attribute) pkcs11.ObjectHandle {
	if d.err != nil {
		return 0
	}
	h, err := d.t.ctx.DeriveKey(d.s, []*pkcs11.Mechanism{m}, base, template)
	return d.keep(what, h, failed("C_DeriveKey", err))
}

// secret derives a secret of this many bytes that does nothing but derive.
func (d *deriver) secret(what string, base pkcs11.ObjectHandle, length int, mech uint, parameter []byte) pkcs11.ObjectHandle {
	return d.derive(what, base, pkcs11.NewMechanism(mech, parameter), agreedSecret(length))
}

// withData appends public bytes to a secret.
func (d *deriver) withData(base pkcs11.ObjectHandle, length int, data []byte) pkcs11.ObjectHandle {
	m, done := stringDataMechanism(pkcs11.CKM_CONCATENATE_BASE_AND_DATA, data)
	defer done()
	return d.derive("CKM_CONCATENATE_BASE_AND_DATA", base, m, agreedSecret(length+len(data)))
}

// agree imports a private key of known value and agrees on a secret with its peer.
func (d *deriver) agree(scalar, peer []byte) pkcs11.ObjectHandle {
	if d.err != nil {
		return 0
	}
	h, err := d.t.ctx.CreateObject(d.s, agreeingTemplate(scalar))
	private := d.keep("the private key", h, failed("C_CreateObject", err))
	m := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, peer))
	return d.derive("CKM_ECDH1_DERIVE", private, m, agreedSecret(32))
}

// tryAgreement runs self-scp11b of the vectors: the receipt of a card, under the first
// of the keys.
func (t *Token) tryAgreement(ctx context.Context) error {
	receipt := unhex("A60D9002110095013C8001888101105F4941048F32FC7558FE299E3BD15E48424EEFD55AFEB42A1B43B9A9F6CC119B971CBF56" +
		"C7AA7F31FAF75639FBB8AE895623C99B6BDA195A4007B9F71E7EFB75F28155845F494104AAAA432EA851EF86004C491BFAE0DD5E83EFE1E43F8E256B64323C5C" +
		"F4D567BDF3D2745612B892522366E861A3045A8278E00448F63846C42A6594D3A99D707E")
	ours := unhex("5AD7D1A5B06E4FDFF21B275985ABDC8B8BE3CCBD3AD3187CBB34B097203CD763")
	ephemeral, static := receipt[len(receipt)-65:], unhex("04FCBFA3D0A71266C4263D093CBA0BAFBFD36F666A0719A97ACBAA2C274E8C4150CD4DBBC90C29D0BB2C6A58DB153CA1CA2D089646E4193841DE58474BC03239C5")
	macs, err := t.AgreementMACs(ctx, [2][]byte{ours, ours}, [2][]byte{ephemeral, static}, unhex("3C8810"), receipt)
	return expect(macs[0], err, "D17C1933EC8E486848E02017ACC69D25")
}
