package hsm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// harmless is an object of another program, as it should be.
func harmless(label string, change map[uint]any) []*pkcs11.Attribute {
	attrs := map[uint]any{
		pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
		pkcs11.CKA_ENCRYPT: true, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_SIGN: false, pkcs11.CKA_VERIFY: false,
		pkcs11.CKA_WRAP: false, pkcs11.CKA_UNWRAP: false, pkcs11.CKA_DERIVE: false, pkcs11.CKA_MODIFIABLE: false,
		pkcs11.CKA_VALUE_LEN: 32, pkcs11.CKA_LABEL: label,
	}
	for k, v := range change {
		attrs[k] = v
	}
	var out []*pkcs11.Attribute
	last := pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, attrs[pkcs11.CKA_MODIFIABLE])
	delete(attrs, pkcs11.CKA_MODIFIABLE)
	for k, v := range attrs {
		out = append(out, pkcs11.NewAttribute(k, v))
	}
	return append(out, last)
}

// TestSurvey plants objects in a token, one after the other, and takes each away.
func TestSurvey(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		raw, slot := tok.Raw()
		ours, err := tok.Generate(ctx, unique(t, "ours"), key.AES256, derive.Static)
		if err != nil {
			t.Fatal(err)
		}
		plant := func(label string, change map[uint]any) func() {
			t.Helper()
			s, err := raw.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			if err != nil {
				t.Fatal(err)
			}
			h, err := raw.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, harmless(label, change))
			if err != nil {
				t.Fatal(err)
			}
			return func() { _, _ = raw.DestroyObject(s, h), raw.CloseSession(s) }
		}
		before, err := tok.Survey(ctx, []string{ours.Label})
		if err != nil || slices.Contains(before.Foreign, ours.Label) {
			t.Fatal(before, err)
		}
		remove := plant("harmless", nil)
		s, err := tok.Survey(ctx, []string{ours.Label})
		if err != nil || len(s.Dangers) != len(before.Dangers) || !slices.Contains(s.Foreign, "harmless") {
			t.Errorf("a harmless object: %+v, %v", s, err)
		}
		remove()
		for name, c := range map[string]struct {
			label  string
			change map[uint]any
			want   string
		}{
			"wrap and decrypt":   {"", map[uint]any{pkcs11.CKA_ENCRYPT: false, pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true}, "may wrap and decrypt"},
			"unwrap and decrypt": {"", map[uint]any{pkcs11.CKA_ENCRYPT: false, pkcs11.CKA_UNWRAP: true, pkcs11.CKA_DECRYPT: true}, "may unwrap and decrypt"},
			"encrypt and derive": {"", map[uint]any{pkcs11.CKA_DERIVE: true}, "may encrypt and derive"},
			"modifiable":         {"", map[uint]any{pkcs11.CKA_MODIFIABLE: true}, "is modifiable"},
			"extractable":        {"", map[uint]any{pkcs11.CKA_EXTRACTABLE: true}, "is extractable"},
			"not sensitive":      {"", map[uint]any{pkcs11.CKA_SENSITIVE: false}, "is not sensitive"},
			"our label":          {ours.Label, nil, "more than once"},
		} {
			if name == "not sensitive" && strings.HasSuffix(t.Name(), "/nss") {
				continue // NSS makes every key of its database sensitive
			}
			if c.label == "" {
				c.label = "planted " + name
			}
			remove := plant(c.label, c.change)
			s, err := tok.Survey(ctx, []string{ours.Label})
			found := slices.ContainsFunc(s.Dangers, func(d string) bool { return strings.Contains(d, c.label) && strings.Contains(d, c.want) })
			if err != nil || !found || fault.CodeOf(s.Err()) != fault.KeyState {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
			remove()
		}
		after, err := tok.Survey(ctx, []string{ours.Label})
		if err != nil || len(after.Dangers) != len(before.Dangers) {
			t.Errorf("%+v, %v", after, err)
		}
		if len(before.Dangers) > 0 {
			t.Logf("what other tests left: %v", before.Dangers)
		}
	})
}
