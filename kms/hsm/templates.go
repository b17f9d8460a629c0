package hsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/key"
)

// Mechanisms and attributes that [P11] versions above 2.40 define.
const (
	ckmSP800108Counter = 0x000003AC // CKM_SP800_108_COUNTER_KDF
	ckmEDDSA           = 0x00001057
	ckmEdwardsKeyPair  = 0x00001055
	ckkECEdwards       = 0x00000040
)

// role is what a template allows, beside its class.
type role struct {
	encrypt, decrypt, sign, wrap, unwrap, derive bool
	extractable                                  bool
	mechanisms                                   []uint
}

// roleOf is the one place that says what a class may do inside the token. No
// role combines two of {encrypt or decrypt, sign, wrap, derive} but Static under
// the composed plan: a short-lived card key must also encrypt single blocks
// there, because its CMAC subkey has to be computed (see compose.go). Roots
// never encrypt.
func (p plan) roleOf(c derive.Class, a key.Algorithm, root bool) role {
	switch c {
	case derive.Static:
		r := role{derive: true}
		switch {
		case a.TDEA():
			r.mechanisms = []uint{pkcs11.CKM_DES3_ECB_ENCRYPT_DATA}
			if p.xor && !root {
				r.mechanisms = append(r.mechanisms, pkcs11.CKM_XOR_BASE_AND_DATA)
			}
		case p.native:
			r.mechanisms = []uint{ckmSP800108Counter, pkcs11.CKM_AES_ECB_ENCRYPT_DATA}
		default:
			r.mechanisms = []uint{pkcs11.CKM_AES_ECB_ENCRYPT_DATA}
		}
		if !root && !a.TDEA() && !p.native {
			r.encrypt = true
			r.mechanisms = append(r.mechanisms, pkcs11.CKM_AES_ECB)
		}
		return r
	case derive.StaticCBC:
		return role{derive: true, mechanisms: []uint{pkcs11.CKM_DES3_ECB_ENCRYPT_DATA, pkcs11.CKM_DES3_CBC_ENCRYPT_DATA}}
	case derive.SessionRetail, derive.SessionRetailLeft:
		return role{encrypt: true, mechanisms: []uint{pkcs11.CKM_DES3_CBC}}
	case derive.SessionENC:
		if a.TDEA() { // no protocol of 3DES cards decrypts
			return role{encrypt: true, mechanisms: []uint{pkcs11.CKM_DES3_CBC}}
		}
		return role{encrypt: true, decrypt: true, mechanisms: []uint{pkcs11.CKM_AES_CBC}}
	case derive.PackageENC:
		return role{encrypt: true, mechanisms: []uint{pkcs11.CKM_AES_CBC}}
	case derive.SessionMAC:
		return role{sign: true, mechanisms: []uint{pkcs11.CKM_AES_CMAC}}
	case derive.DataEncryption:
		return role{wrap: true, mechanisms: []uint{wrapMechanism(a)}}
	case derive.Transport:
		return role{extractable: true}
	}
	panic(fmt.Sprintf("hsm: no role for class %d", c))
}

// wrapMechanism is how a DataEncryption key wraps: [GPCS], Section E.4.7 for 3DES,
// [AmdD], Section 6.2.8 for AES.
func wrapMechanism(a key.Algorithm) uint {
	if a.TDEA() {
		return pkcs11.CKM_DES3_ECB
	}
	return pkcs11.CKM_AES_CBC
}

// kekRole is what a key-encryption key may do, and nothing else: bring a wrapped key
// in. One that could wrap, encrypt or decrypt too would give out what it brought in
// ([Clulow] Clulow, On the Security of PKCS #11, CHES 2003). It is no class of
// derive, because nothing of the data plane ever names such a key.
func kekRole() role {
	return role{unwrap: true, mechanisms: []uint{pkcs11.CKM_AES_KEY_WRAP, pkcs11.CKM_AES_KEY_WRAP_PAD}}
}

// template returns the attributes that decide about a secret key of a class, or about the
// private half of a pair.
func (p plan) template(c derive.Class, a key.Algorithm, root bool, extra ...*pkcs11.Attribute) []*pkcs11.Attribute {
	if c == derive.Agreeing {
		_, private := pairTemplates(root, extra...)
		return private
	}
	return p.templateOf(p.roleOf(c, a, root), a, root, extra...)
}

// templateOf returns the attributes that decide about a secret key, those that a
// token may lack only where it has them. CKA_TRUSTED and CKA_WRAP_WITH_TRUSTED are
// left out: nothing here is ever wrapped but a Transport key. root says whether it is a token object; extra names
// the object or gives its length or value.
func (p plan) templateOf(r role, a key.Algorithm, root bool, extra ...*pkcs11.Attribute) []*pkcs11.Attribute {
	t := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType(a)),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, root),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, r.extractable),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, r.encrypt),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, r.decrypt),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, r.sign),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, r.wrap),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, r.unwrap),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, r.derive),
	}
	if p.copyable {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false))
	}
	if p.allowed && len(r.mechanisms) > 0 {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, ulongs(r.mechanisms)))
	}
	return locked(append(t, extra...))
}

// readableTemplate is a generic secret whose value can be read. Only the oracle
// of compose.go, the probe of the token's boundary and exchange.go use it.
func readableTemplate(length int) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
}

// locked makes an object that no later call can change. The attribute comes
// last, because SoftHSM2 applies a template in order and refuses what follows it.
func locked(t []*pkcs11.Attribute) []*pkcs11.Attribute {
	return append(t, pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
}

// size returns CKA_VALUE_LEN, which AES keys need when they are generated or
// derived and 3DES keys must not have.
func size(a key.Algorithm) []*pkcs11.Attribute {
	if a.TDEA() {
		return nil
	}
	return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, a.Size())}
}

func keyType(a key.Algorithm) uint {
	switch a {
	case key.TDEA2:
		return pkcs11.CKK_DES2
	case key.TDEA3:
		return pkcs11.CKK_DES3
	}
	return pkcs11.CKK_AES
}

func ulongs(v []uint) []byte {
	var b []byte
	for _, m := range v {
		b = binary.NativeEndian.AppendUint64(b, uint64(m))
	}
	return b
}

func sortedULongs(b []byte) []byte {
	var v []uint
	for ; len(b) >= 8; b = b[8:] {
		v = append(v, uint(binary.NativeEndian.Uint64(b)))
	}
	slices.Sort(v)
	return ulongs(v)
}

// verify reads back the attributes that protect an object and refuses it when
// one differs from its template, whatever created it.
func (p plan) verify(c *counted, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, class derive.Class, a key.Algorithm, root bool) error {
	want := p.template(class, a, root)
	if root {
		want = kept(c, s, h, want)
	}
	return compareAttributes(c, s, h, want)
}

// verifyKEK is verify for a key-encryption key, which must have its size too: what it
// may bring in is decided by its strength.
func (p plan) verifyKEK(c *counted, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
	return compareAttributes(c, s, h, kept(c, s, h, append(p.templateOf(kekRole(), key.AES256, true), size(key.AES256)...)))
}

// kekPairTemplates are those of an RSA pair whose private half may only unwrap. The
// public half may wrap: whoever sends keys needs it, and it protects no secret.
func kekPairTemplates(label string) (public, private []*pkcs11.Attribute) {
	no := func(types ...uint) (out []*pkcs11.Attribute) {
		for _, t := range types {
			out = append(out, pkcs11.NewAttribute(t, false))
		}
		return out
	}
	public = append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 3072), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}, no(pkcs11.CKA_ENCRYPT, pkcs11.CKA_VERIFY)...)
	private = append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
	}, no(pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT, pkcs11.CKA_DERIVE)...)
	return locked(append(public, name(label)...)), locked(append(private, name(label)...))
}

// withoutOptional is the plan of a token that knows none of the attributes that
// [P11] 2.40 tokens may lack.
func (p plan) withoutOptional() plan {
	p.copyable, p.allowed = false, false
	return p
}

// kept drops the optional attributes that the store of a token object does not
// know at all. A store that knows them answers with their default for an object
// that was made without, and is not spared.
func kept(c *counted, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, want []*pkcs11.Attribute) (out []*pkcs11.Attribute) {
	for _, w := range want {
		if w.Type == pkcs11.CKA_COPYABLE || w.Type == pkcs11.CKA_ALLOWED_MECHANISMS {
			_, err := c.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(w.Type, nil)})
			if errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)) {
				continue
			}
		}
		out = append(out, w)
	}
	return out
}

func compareAttributes(c *counted, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, want []*pkcs11.Attribute) error {
	ask := make([]*pkcs11.Attribute, len(want))
	for i, w := range want {
		ask[i] = pkcs11.NewAttribute(w.Type, nil)
	}
	got, err := c.GetAttributeValue(s, h, ask)
	if err != nil {
		return failed("C_GetAttributeValue", err)
	}
	for i, w := range want {
		same := string(got[i].Value) == string(w.Value)
		if w.Type == pkcs11.CKA_ALLOWED_MECHANISMS { // a set, which SoftHSM2 gives back sorted
			same = string(sortedULongs(got[i].Value)) == string(sortedULongs(w.Value))
		}
		if !same {
			return fmt.Errorf("hsm: the token keeps attribute %#x as % X where the template says % X", w.Type, got[i].Value, w.Value)
		}
	}
	return nil
}
