package hsm_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// parameter gives a mechanism the parameter that it needs, so that a refusal is
// one of the key and not of the parameter.
func parameter(mech uint) (*pkcs11.Mechanism, func()) {
	none := func() {}
	switch mech {
	case pkcs11.CKM_AES_ECB_ENCRYPT_DATA, pkcs11.CKM_DES3_ECB_ENCRYPT_DATA, pkcs11.CKM_DES_ECB_ENCRYPT_DATA:
		m, done := hsm.StringDataMechanism(make([]byte, 32))
		m.Mechanism = mech
		return m, done
	case pkcs11.CKM_AES_CBC_ENCRYPT_DATA, pkcs11.CKM_DES3_CBC_ENCRYPT_DATA, pkcs11.CKM_DES_CBC_ENCRYPT_DATA:
		iv := 16
		if mech != pkcs11.CKM_AES_CBC_ENCRYPT_DATA {
			iv = 8
		}
		// CK_AES_CBC_ENCRYPT_DATA_PARAMS: the IV, a pointer and a length.
		sd, done := hsm.StringDataMechanism(make([]byte, 32))
		return pkcs11.NewMechanism(mech, append(make([]byte, iv), sd.Parameter...)), done
	case pkcs11.CKM_AES_CBC, pkcs11.CKM_AES_CBC_PAD:
		return pkcs11.NewMechanism(mech, make([]byte, 16)), none
	case pkcs11.CKM_DES3_CBC, pkcs11.CKM_DES3_CBC_PAD, pkcs11.CKM_DES_CBC, pkcs11.CKM_DES_CBC_PAD:
		return pkcs11.NewMechanism(mech, make([]byte, 8)), none
	case pkcs11.CKM_AES_CTR: // CK_AES_CTR_PARAMS: bits, counter block
		p := struct {
			bits  uint64
			block [16]byte
		}{bits: 32}
		return pkcs11.NewMechanism(mech, append([]byte{}, unsafe.Slice((*byte)(unsafe.Pointer(&p)), unsafe.Sizeof(p))...)), none
	case pkcs11.CKM_AES_GCM:
		return pkcs11.NewMechanism(mech, pkcs11.NewGCMParams(make([]byte, 12), nil, 128)), none
	}
	return pkcs11.NewMechanism(mech, nil), none
}

// functions are the seven things that a key can be asked to do, each in a session
// of its own because a begun operation cannot be cancelled.
var functions = map[string]func(*pkcs11.Ctx, pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle, pkcs11.ObjectHandle) error{
	"encrypt": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, _ pkcs11.ObjectHandle) error {
		return c.EncryptInit(s, m, h)
	},
	"decrypt": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, _ pkcs11.ObjectHandle) error {
		return c.DecryptInit(s, m, h)
	},
	"sign": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, _ pkcs11.ObjectHandle) error {
		return c.SignInit(s, m, h)
	},
	"verify": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, _ pkcs11.ObjectHandle) error {
		return c.VerifyInit(s, m, h)
	},
	"wrap": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, other pkcs11.ObjectHandle) error {
		_, err := c.WrapKey(s, m, h, other)
		return err
	},
	// Something wrapped by the key itself, so that unwrapping could succeed.
	"unwrap": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, other pkcs11.ObjectHandle) error {
		blob, err := c.WrapKey(s, m, h, other)
		if err != nil {
			blob = make([]byte, 24)
		}
		_, err = c.UnwrapKey(s, m, h, blob, readable())
		return err
	},
	"derive": func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h, _ pkcs11.ObjectHandle) error {
		_, err := c.DeriveKey(s, m, h, append(readable(), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16)))
		return err
	},
}

// readable is a template that an attacker would choose.
func readable() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}
}

// TestMechanismMatrix is A2, A4 and A7 in full on SoftHSM2: every mechanism that
// the token lists, with every function, on a live key of every class. What
// succeeds must be exactly what the class is for. A control key that may do
// everything shows that the refusals come from the keys.
func TestMechanismMatrix(t *testing.T) {
	if !inChild(t) { // some of these calls have crashed modules before
		return
	}
	cfg := softHSM(t)
	tok := openToken(t, cfg)
	soft := new(derivetest.Token)
	aes := importRoot(t, tok, soft, "aes", key.AES128, derive.Static)
	tdea := importRoot(t, tok, soft, "tdea", key.TDEA2, derive.Static)
	of := func(c derive.Class) *derive.Key { return cardKey(t, aes, 1, diversify.MAC, c) }
	legacy := legacyKeys(t, tdeaCardKey(t, tdea))
	for name, c := range map[string]struct {
		key  *derive.Key
		want []string
	}{
		"AES master":     {aes, []string{"derive AES_ECB_ENCRYPT_DATA"}},
		"3DES master":    {tdea, []string{"derive DES3_ECB_ENCRYPT_DATA"}},
		"card key":       {of(derive.Static), []string{"derive AES_ECB_ENCRYPT_DATA", "encrypt AES_ECB"}},
		"SessionENC":     {of(derive.SessionENC), []string{"decrypt AES_CBC", "encrypt AES_CBC"}},
		"PackageENC":     {of(derive.PackageENC), []string{"encrypt AES_CBC"}},
		"SessionMAC":     {of(derive.SessionMAC), []string{"sign AES_CMAC"}},
		"DataEncryption": {of(derive.DataEncryption), []string{"wrap AES_CBC"}},
		"Transport":      {of(derive.Transport), nil},

		"3DES card key":       {tdeaCardKey(t, tdea), []string{"derive DES3_CBC_ENCRYPT_DATA", "derive DES3_ECB_ENCRYPT_DATA"}},
		"3DES SessionENC":     {legacy.ENC, []string{"encrypt DES3_CBC"}},
		"SessionRetail":       {legacy.MAC.Whole(), []string{"encrypt DES3_CBC"}},
		"SessionRetailLeft":   {legacy.MAC.Left(), []string{"encrypt DES3_CBC"}},
		"3DES DataEncryption": {legacy.DEK, nil}, // SoftHSM2 cannot wrap with 3DES
	} {
		if err := tok.WithObject(c.key, func(_ pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
			got, tried := whatWorks(t, tok, h)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s: %s", name, d)
			}
			t.Logf("%s: %d combinations, %d work", name, tried, len(got))
			return nil
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	writable(t, tok, func(c *pkcs11.Ctx, s pkcs11.SessionHandle) {
		got, _ := whatWorks(t, tok, unrestricted(t, c, s))
		for _, want := range []string{
			"encrypt AES_ECB", "encrypt AES_CBC", "encrypt AES_CBC_PAD", "encrypt AES_CTR", "encrypt AES_GCM", "decrypt AES_ECB", "decrypt AES_CBC",
			"sign AES_CMAC", "verify AES_CMAC", "wrap AES_KEY_WRAP", "wrap AES_CBC", "unwrap AES_KEY_WRAP",
			"derive AES_ECB_ENCRYPT_DATA", "derive AES_CBC_ENCRYPT_DATA",
		} {
			if !slices.Contains(got, want) {
				t.Errorf("a key that may do everything cannot %s, so the matrix shows nothing about it", want)
			}
		}
	})
}

// unrestricted makes a key that may do everything.
func unrestricted(t *testing.T, c *pkcs11.Ctx, s pkcs11.SessionHandle, extra ...*pkcs11.Attribute) pkcs11.ObjectHandle {
	t.Helper()
	template := append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}, extra...)
	for _, a := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE} {
		template = append(template, pkcs11.NewAttribute(a, true))
	}
	h, err := c.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// whatWorks tries every listed mechanism with every function on a key.
func whatWorks(t *testing.T, tok *hsm.Token, h pkcs11.ObjectHandle) (works []string, tried int) {
	t.Helper()
	c, slot := tok.Raw()
	list, err := c.GetMechanismList(slot)
	if err != nil || len(list) < 50 {
		t.Fatalf("%d mechanisms, %v", len(list), err)
	}
	for _, name := range slices.Sorted(maps.Keys(functions)) {
		for _, m := range list {
			tried++
			s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			if err != nil {
				t.Fatal(err)
			}
			other := unrestricted(t, c, s)
			mech, done := parameter(m.Mechanism)
			if functions[name](c, s, []*pkcs11.Mechanism{mech}, h, other) == nil {
				works = append(works, name+" "+mechanismName(m.Mechanism))
			}
			done()
			_ = c.CloseSession(s) // and with it what was made
		}
	}
	slices.Sort(works)
	return works, tried
}

func mechanismName(m uint) string {
	names := map[uint]string{
		pkcs11.CKM_AES_ECB: "AES_ECB", pkcs11.CKM_AES_CBC: "AES_CBC", pkcs11.CKM_AES_CBC_PAD: "AES_CBC_PAD", pkcs11.CKM_AES_CTR: "AES_CTR",
		pkcs11.CKM_AES_GCM: "AES_GCM", pkcs11.CKM_AES_CMAC: "AES_CMAC", pkcs11.CKM_AES_KEY_WRAP: "AES_KEY_WRAP",
		pkcs11.CKM_AES_ECB_ENCRYPT_DATA: "AES_ECB_ENCRYPT_DATA", pkcs11.CKM_AES_CBC_ENCRYPT_DATA: "AES_CBC_ENCRYPT_DATA",
		pkcs11.CKM_DES3_ECB_ENCRYPT_DATA: "DES3_ECB_ENCRYPT_DATA", pkcs11.CKM_DES3_CBC_ENCRYPT_DATA: "DES3_CBC_ENCRYPT_DATA",
		pkcs11.CKM_DES3_ECB: "DES3_ECB", pkcs11.CKM_DES3_CBC: "DES3_CBC", pkcs11.CKM_DES3_CBC_PAD: "DES3_CBC_PAD",
	}
	if n, ok := names[m]; ok {
		return n
	}
	return strings.ToUpper(fmt.Sprintf("%#x", m))
}
