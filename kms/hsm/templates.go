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
	encrypt, decrypt, sign, wrap, derive bool
	extractable                          bool
	mechanisms                           []uint
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
	case derive.SessionENC:
		return role{encrypt: true, decrypt: true, mechanisms: []uint{pkcs11.CKM_AES_CBC}}
	case derive.PackageENC:
		return role{encrypt: true, mechanisms: []uint{pkcs11.CKM_AES_CBC}}
	case derive.SessionMAC:
		return role{sign: true, mechanisms: []uint{pkcs11.CKM_AES_CMAC}}
	case derive.DataEncryption:
		return role{wrap: true, mechanisms: []uint{pkcs11.CKM_AES_CBC}}
	case derive.Transport:
		return role{extractable: true}
	}
	panic(fmt.Sprintf("hsm: no role for class %d", c))
}

// template returns the attributes that decide about a secret key, those that a
// token may lack only where it has them. CKA_TRUSTED and CKA_WRAP_WITH_TRUSTED are
// left out: nothing here is ever wrapped but a Transport key. root says whether it is a token object; extra names
// the object or gives its length or value.
func (p plan) template(c derive.Class, a key.Algorithm, root bool, extra ...*pkcs11.Attribute) []*pkcs11.Attribute {
	r := p.roleOf(c, a, root)
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
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
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
// of compose.go and the probe of the token's boundary use it.
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
func (p plan) verify(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, class derive.Class, a key.Algorithm, root bool) error {
	want := p.template(class, a, root)
	if root {
		want = kept(c, s, h, want)
	}
	return compareAttributes(c, s, h, want)
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
func kept(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, want []*pkcs11.Attribute) (out []*pkcs11.Attribute) {
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

func compareAttributes(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, want []*pkcs11.Attribute) error {
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
