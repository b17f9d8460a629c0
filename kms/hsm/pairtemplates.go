package hsm

import (
	"slices"

	"github.com/miekg/pkcs11"

	"cardkms/kms/key"
)

// Pairs of P-256 whose private half may only agree on a secret (CKM_ECDH1_DERIVE), and what
// they agree on. Pairs for components on their way (see exchange.go) and those of SCP11 have
// the same templates: which of them may give its secret to the host is said by labels, and by
// what asks.

// pairTemplates are those of a pair that lives in the token or ends with a session; extra
// names it.
func pairTemplates(token bool, extra ...*pkcs11.Attribute) (public, private []*pkcs11.Attribute) {
	_, public, private = keyPairTemplates(key.P256, token)
	public, private = slices.Clone(public), slices.Clone(private[:len(private)-1])
	for i, a := range public {
		if a.Type == pkcs11.CKA_VERIFY {
			public[i] = pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false)
		}
	}
	for i, a := range private {
		switch a.Type {
		case pkcs11.CKA_SIGN:
			private[i] = pkcs11.NewAttribute(pkcs11.CKA_SIGN, false)
		case pkcs11.CKA_DERIVE:
			private[i] = pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true)
		}
	}
	return locked(append(public, extra...)), locked(append(private, extra...))
}

// importedPair imports a private half of known value, for known answers: it ends with its
// session.
func importedPair(scalar []byte) []*pkcs11.Attribute {
	_, private := pairTemplates(false, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curves[key.P256]), pkcs11.NewAttribute(pkcs11.CKA_VALUE, scalar))
	return private
}

// agreedSecret is what was agreed on, on its way to keys: it derives, and that is all.
func agreedSecret(length int) []*pkcs11.Attribute {
	return secretTemplate(length, pkcs11.CKA_DERIVE)
}

// provingSecret is a secret that only computes one HMAC, which proves that a token has it.
func provingSecret() []*pkcs11.Attribute { return secretTemplate(32, pkcs11.CKA_SIGN) }

func secretTemplate(length int, does uint) []*pkcs11.Attribute {
	return locked([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, does == pkcs11.CKA_SIGN),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, does == pkcs11.CKA_DERIVE),
	})
}
