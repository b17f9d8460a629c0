package hsm_test

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/kms/hsm"
	"cardkms/kms/secret"
	"cardkms/softhsm/testtoken"
)

// What SoftHSM2 does differently from what one would expect of a token. Each of
// these shaped the adapter; a release of SoftHSM2 that changes one should be
// noticed here and not in production. They use the library directly, in a child
// process, because its state is global.

// quirks opens the library itself, logged in.
func quirks(t *testing.T) (c *pkcs11.Ctx, s pkcs11.SessionHandle, again func() pkcs11.SessionHandle) {
	t.Helper()
	cfg := softHSM(t)
	c = pkcs11.New(cfg.Module)
	login := func() pkcs11.SessionHandle {
		if err := c.Initialize(); err != nil {
			t.Fatal(err)
		}
		slots, err := c.GetSlotList(true)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Login(s, pkcs11.CKU_USER, string(cfg.PIN.Reveal())); err != nil {
			t.Fatal(err)
		}
		return s
	}
	again = func() pkcs11.SessionHandle {
		if err := c.Finalize(); err != nil {
			t.Fatal(err)
		}
		return login()
	}
	return c, login(), again
}

func aesKey(t *testing.T, c *pkcs11.Ctx, s pkcs11.SessionHandle, size int, extra ...*pkcs11.Attribute) pkcs11.ObjectHandle {
	t.Helper()
	h, err := c.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, size), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	}, extra...))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func cmac(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (string, error) {
	if err := c.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CMAC, nil)}, h); err != nil {
		return "", err
	}
	mac, err := c.Sign(s, []byte("message"))
	return string(mac), err
}

// TestQuirkOldHandles: after C_Finalize an old handle names another key, without
// an error. Hence epochs: no handle outlives the library's life.
func TestQuirkOldHandles(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, again := quirks(t)
	old := aesKey(t, c, s, 16)
	want, err := cmac(c, s, old)
	if err != nil {
		t.Fatal(err)
	}
	s = again()
	for range 8 {
		aesKey(t, c, s, 16)
	}
	got, err := cmac(c, s, old)
	if err != nil || got == want {
		t.Errorf("the old handle gives %v and the same MAC: %v; SoftHSM2 does not give handles again any more", err, got == want)
	}
}

// TestQuirkNoLock: wrong PINs never lock the token. Hence one attempt by rule.
func TestQuirkNoLock(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, _ := quirks(t)
	if err := c.Logout(s); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		if err := c.Login(s, pkcs11.CKU_USER, "wrong-pin"); !errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)) {
			t.Fatalf("a wrong PIN: %v", err)
		}
	}
	cfg, _ := testtoken.SoftHSMConfig()
	if err := c.Login(s, pkcs11.CKU_USER, string(cfg.PIN.Reveal())); err != nil {
		t.Errorf("the right PIN after 15 wrong ones: %v", err)
	}
	if cfg.PIN.String() != secret.Redacted {
		t.Error("the PIN shows itself")
	}
}

// TestQuirkAES192Wrap: a 24-byte key cannot be wrapped with AES-CBC. Hence PUT KEY
// of AES-192 is refused there.
func TestQuirkAES192Wrap(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, _ := quirks(t)
	extractable := pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)
	wrapping := aesKey(t, c, s, 16)
	for size, works := range map[int]bool{16: true, 24: false, 32: true} {
		_, err := c.WrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, make([]byte, 16))}, wrapping, aesKey(t, c, s, size, extractable))
		if (err == nil) != works {
			t.Errorf("wrapping %d bytes: %v", size, err)
		}
	}
}

// TestQuirkSingleDES: single DES is in the mechanism list and fails. Hence what a
// token can do is tried, not looked up.
func TestQuirkSingleDES(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, _ := quirks(t)
	info, err := c.GetSessionInfo(s)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.GetMechanismList(info.SlotID)
	if err != nil {
		t.Fatal(err)
	}
	listed := false
	for _, m := range list {
		listed = listed || m.Mechanism == pkcs11.CKM_DES_CBC
	}
	h, err := c.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_DES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
	})
	if err == nil {
		if err = c.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_DES_CBC, make([]byte, 8))}, h); err == nil {
			_, err = c.Encrypt(s, make([]byte, 8))
		}
	}
	if !listed || err == nil {
		t.Errorf("CKM_DES_CBC is listed: %v; using it: %v", listed, err)
	}
}

// TestQuirkModifiableLast: a derive template is applied in order, and whatever
// follows CKA_MODIFIABLE = false is refused. Hence locked puts it last.
func TestQuirkModifiableLast(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, _ := quirks(t)
	base := aesKey(t, c, s, 16, pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true))
	fixed := pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)
	rest := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
	}
	if _, err := deriveFromZeros(c, s, base, append([]*pkcs11.Attribute{fixed}, rest...)); !errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_READ_ONLY)) {
		t.Errorf("CKA_MODIFIABLE first: %v", err)
	}
	if _, err := deriveFromZeros(c, s, base, append(rest, fixed)); err != nil {
		t.Errorf("CKA_MODIFIABLE last: %v", err)
	}
}

// TestQuirkReadableChild: whoever is logged in can derive a readable key from a
// key that is never extractable. Hence the boundary is the adapter's here.
func TestQuirkReadableChild(t *testing.T) {
	if !inChild(t) {
		return
	}
	c, s, _ := quirks(t)
	base := aesKey(t, c, s, 16, pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false))
	h, err := deriveFromZeros(c, s, base, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil || len(got[0].Value) != 16 {
		t.Errorf("the child's value: %v", err)
	}
}

func deriveFromZeros(c *pkcs11.Ctx, s pkcs11.SessionHandle, base pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	m, done := hsm.StringDataMechanism(make([]byte, 16))
	defer done()
	return c.DeriveKey(s, []*pkcs11.Mechanism{m}, base, template)
}
