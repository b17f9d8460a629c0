package hsm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/testtoken"
)

// victims returns a live key of every class that the adapter makes, derived from
// a master in the token where the class allows it.
func victims(t *testing.T, tok *hsm.Token) map[string]*derive.Key {
	t.Helper()
	root, err := tok.Generate(ctx, unique(t, "attack"), key.AES256, derive.Static)
	if err != nil {
		t.Fatal(err)
	}
	master := derive.FromRoot(root)
	out := map[string]*derive.Key{"master": master}
	for name, class := range map[string]derive.Class{
		"card key": derive.Static, "S-ENC": derive.SessionENC, "S-MAC": derive.SessionMAC,
		"K_enc": derive.PackageENC, "K-DEK": derive.DataEncryption, "new card key": derive.Transport,
	} {
		k, err := diversify.Card(diversify.KDF3, master, make([]byte, 10), diversify.Target{Purpose: diversify.ENC, Class: class, Algorithm: key.AES128})
		if err != nil {
			t.Fatal(err)
		}
		out[name] = k
		t.Cleanup(func() { tok.Release(k) })
	}
	return out
}

// TestNoValueCanBeRead asks each live object for its value through the library
// itself.
func TestNoValueCanBeRead(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		raw, _ := tok.Raw()
		for name, k := range victims(t, tok) {
			err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
				_, err := raw.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
				return err
			})
			if !errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE)) {
				t.Errorf("%s: CKA_VALUE: %v", name, err)
			}
		}
	})
}

// use is one way of using a key.
type use struct {
	name string
	mech uint
	iv   []byte
	try  func(*pkcs11.Ctx, pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
}

func uses() []use {
	encrypt := func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
		if err := c.EncryptInit(s, m, h); err != nil {
			return err
		}
		_, err := c.Encrypt(s, make([]byte, 16))
		return err
	}
	decrypt := func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
		if err := c.DecryptInit(s, m, h); err != nil {
			return err
		}
		_, err := c.Decrypt(s, make([]byte, 16))
		return err
	}
	sign := func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
		if err := c.SignInit(s, m, h); err != nil {
			return err
		}
		_, err := c.Sign(s, make([]byte, 16))
		return err
	}
	unwrap := func(c *pkcs11.Ctx, s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
		_, err := c.UnwrapKey(s, m, h, make([]byte, 24), []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		})
		return err
	}
	iv := make([]byte, 16)
	return []use{
		{"encrypt ECB", pkcs11.CKM_AES_ECB, nil, encrypt}, {"encrypt CBC", pkcs11.CKM_AES_CBC, iv, encrypt},
		{"encrypt CBC_PAD", pkcs11.CKM_AES_CBC_PAD, iv, encrypt},
		{"decrypt ECB", pkcs11.CKM_AES_ECB, nil, decrypt}, {"decrypt CBC", pkcs11.CKM_AES_CBC, iv, decrypt},
		{"decrypt CBC_PAD", pkcs11.CKM_AES_CBC_PAD, iv, decrypt},
		{"sign CMAC", pkcs11.CKM_AES_CMAC, nil, sign}, {"unwrap AES_KEY_WRAP", pkcs11.CKM_AES_KEY_WRAP, nil, unwrap},
		{"unwrap CBC", pkcs11.CKM_AES_CBC, iv, unwrap},
	}
}

// TestEachClassHasOneUse tries every use on every class. Only what the class is
// for may work: with two uses of one key its derived keys could be computed.
func TestEachClassHasOneUse(t *testing.T) {
	allowed := map[string][]string{
		"S-ENC": {"encrypt CBC", "decrypt CBC"}, "S-MAC": {"sign CMAC"}, "K_enc": {"encrypt CBC"},
		"master": nil, "K-DEK": nil, "new card key": nil,
	}
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		raw, _ := tok.Raw()
		// NSS keeps CKA_ALLOWED_MECHANISMS and ignores it: it binds a key to its uses,
		// not to a mechanism.
		binds := !strings.HasSuffix(t.Name(), "/nss")
		for name, k := range victims(t, tok) {
			want := allowed[name]
			if name == "card key" && !tok.Native() {
				want = []string{"encrypt ECB"} // its CMAC subkey has to be computed
			}
			for _, u := range uses() {
				err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
					return u.try(raw, s, []*pkcs11.Mechanism{pkcs11.NewMechanism(u.mech, u.iv)}, h)
				})
				isAllowed := false
				for _, w := range want {
					isAllowed = isAllowed || w == u.name || !binds && strings.Fields(w)[0] == strings.Fields(u.name)[0]
				}
				if (err == nil) != isAllowed && (err == nil || binds) {
					t.Errorf("%s: %s: %v", name, u.name, err)
				}
			}
		}
	})
}

// TestNoRoleCanBeAdded tries to give each live key another use, and to copy it
// with one.
func TestNoRoleCanBeAdded(t *testing.T) {
	tok := testtoken.SoftHSM(t) // NSS enforces neither; THREATS.md says so
	raw, _ := tok.Raw()
	for name, k := range victims(t, tok) {
		for _, attr := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_WRAP, pkcs11.CKA_EXTRACTABLE} {
			more := []*pkcs11.Attribute{pkcs11.NewAttribute(attr, true)}
			if err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
				return raw.SetAttributeValue(s, h, more)
			}); err == nil {
				t.Errorf("%s: attribute %#x was set", name, attr)
			}
			if err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
				_, err := raw.CopyObject(s, h, more)
				return err
			}); err == nil {
				t.Errorf("%s: was copied with attribute %#x", name, attr)
			}
		}
	}
}

// spyModule is Debian's pkcs11-spy, which logs every call to another module.
var spyPlaces = []string{"/usr/lib/x86_64-linux-gnu/pkcs11-spy.so", "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11/pkcs11-spy.so"}

// TestSpy runs an authentication and secured commands through pkcs11-spy and
// reads its log: the only value that is read is the oracle's, and the only
// readable objects are the oracle's and the probe's.
func TestSpy(t *testing.T) {
	log := filepath.Join(t.TempDir(), "spy.log")
	if os.Getenv("PKCS11SPY_OUTPUT") != "" {
		log = os.Getenv("PKCS11SPY_OUTPUT")
	}
	if !inChild(t, "PKCS11SPY_OUTPUT="+log) {
		return
	}
	cfg := softHSM(t)
	t.Setenv("PKCS11SPY", cfg.Module)
	for _, p := range spyPlaces {
		if _, err := os.Stat(p); err == nil {
			cfg.Module = p
		}
	}
	tok, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tok.Generate(ctx, "spy", key.AES256, derive.Static)
	if err != nil {
		t.Fatal(err)
	}
	authenticateAndWrap(t, tok, derive.FromRoot(root))
	tok.Close()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	checkSpyLog(t, b)
}

func authenticateAndWrap(t *testing.T, tok *hsm.Token, master *derive.Key) {
	t.Helper()
	card := func(p diversify.Purpose) *derive.Key {
		k, err := diversify.Card(diversify.KDF3, master, make([]byte, 10), diversify.Target{Purpose: p, Class: derive.Static, Algorithm: key.AES128})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	st := scp03.Static{ENC: card(diversify.ENC), MAC: card(diversify.MAC)}
	keys := scp03.SessionKeys(st, make([]byte, 8), make([]byte, 8))
	_, state, err := scp03.ExternalAuthenticate(ctx, tok, keys, 0x33, make([]byte, 8), make([]byte, 8))
	if err != nil {
		t.Fatal(err)
	}
	m := scp03.Messaging{Token: tok, Keys: keys, Level: 0x33, Mode: scp03.S8}
	if _, _, err := m.Wrap(ctx, state, scp03.InitializeUpdate(0, make([]byte, 8))); err != nil {
		t.Fatal(err)
	}
	tok.Release(st.ENC, st.MAC, keys.ENC, keys.MAC, keys.RMAC)
}

// call is one function in the spy's log.
var call = regexp.MustCompile(`(?m)^\d+: (C_\w+)`)

func checkSpyLog(t *testing.T, log []byte) {
	t.Helper()
	at := call.FindAllSubmatchIndex(log, -1)
	derived, reads := 0, 0
	for i, m := range at {
		end := len(log)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		name, body := string(log[m[2]:m[3]]), log[m[0]:end]
		if !bytes.Contains(body, []byte("CKR_OK")) {
			continue
		}
		generic := bytes.Contains(body, []byte("CKK_GENERIC_SECRET"))
		sensitive := regexp.MustCompile(`CKA_SENSITIVE\s+True`).Match(body)
		extractable := regexp.MustCompile(`CKA_EXTRACTABLE\s+True`).Match(body)
		switch name {
		case "C_DeriveKey":
			derived++
			if !generic && (!sensitive || extractable) {
				t.Errorf("a key was derived readable:\n%s", body)
			}
		case "C_GetAttributeValue":
			if bytes.Contains(body, []byte("CKA_VALUE ")) {
				reads++
			}
		case "C_UnwrapKey", "C_SetAttributeValue", "C_CopyObject":
			t.Errorf("%s was called", name)
		}
	}
	if derived < 5 || reads == 0 {
		t.Errorf("the log shows %d derivations and %d reads; it does not show this run", derived, reads)
	}
	t.Logf("%d calls, %d derivations, %d reads of the oracle", len(at), derived, reads)
}
