package hsm_test

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// attributes that a template decides about and that a planted key could have
// wrong.
var flags = map[uint]string{
	pkcs11.CKA_PRIVATE: "private", pkcs11.CKA_SENSITIVE: "sensitive", pkcs11.CKA_EXTRACTABLE: "extractable",
	pkcs11.CKA_ENCRYPT: "encrypt", pkcs11.CKA_DECRYPT: "decrypt", pkcs11.CKA_SIGN: "sign", pkcs11.CKA_VERIFY: "verify",
	pkcs11.CKA_WRAP: "wrap", pkcs11.CKA_UNWRAP: "unwrap", pkcs11.CKA_DERIVE: "derive",
	pkcs11.CKA_COPYABLE: "copyable", pkcs11.CKA_MODIFIABLE: "modifiable",
}

// flipped returns a template with one boolean the other way, or without one
// attribute.
func flipped(t []*pkcs11.Attribute, typ uint, drop bool) (out []*pkcs11.Attribute) {
	for _, a := range t {
		if a.Type == typ && drop {
			continue
		}
		if a.Type == typ {
			a = pkcs11.NewAttribute(typ, a.Value[0] == 0)
		}
		out = append(out, a)
	}
	return out
}

// writable runs f in a read-write session of the token's library.
func writable(t *testing.T, tok *hsm.Token, f func(c *pkcs11.Ctx, s pkcs11.SessionHandle)) {
	t.Helper()
	c, slot := tok.Raw()
	s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseSession(s) }()
	f(c, s)
}

// plant makes an object outside the adapter, with the right label, CKA_ID and
// value, whatever else it says.
func plant(c *pkcs11.Ctx, s pkcs11.SessionHandle, label string, template []*pkcs11.Attribute, v []byte) error {
	modifiable := template[len(template)-1] // stays last: SoftHSM2 applies a template in order
	full := append(template[:len(template)-1:len(template)-1],
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, hsm.RootID(label)),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, v), modifiable)
	_, err := c.CreateObject(s, full)
	return err
}

// TestPlantedRoots plants a key with the right name and value for every
// attribute that is not ours: each is refused, and the same key made right is
// accepted, so the name is not what they were refused for.
func TestPlantedRoots(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		v := value("planted", key.AES128)
		refusedBy := map[string]bool{}
		writable(t, tok, func(c *pkcs11.Ctx, s pkcs11.SessionHandle) {
			probe := derive.FromRoot(derive.Root{Algorithm: key.AES128, Class: derive.Static})
			right := tok.Template(probe, true)
			if tok.Native() { // NSS's database has no place for these two
				right = flipped(flipped(right, pkcs11.CKA_COPYABLE, true), pkcs11.CKA_ALLOWED_MECHANISMS, true)
			}
			try := func(name string, template []*pkcs11.Attribute, wantOK bool) {
				t.Helper()
				label := unique(t, name)
				root := derive.Root{Label: label, Algorithm: key.AES128, Class: derive.Static, KCV: derivetest.KCV(key.AES128, v)}
				if err := plant(c, s, label, template, v); err != nil {
					var ckr pkcs11.Error
					if !errors.As(err, &ckr) || wantOK {
						t.Errorf("planting %s: %v", name, err)
					}
					return // the token itself refuses such a key
				}
				refusedBy[name] = true
				if err := tok.Check(ctx, root); (err == nil) != wantOK {
					t.Errorf("a planted key, %s: %v", name, err)
				}
			}
			try("right", right, true)
			for typ, name := range flags {
				if typ != pkcs11.CKA_COPYABLE || !tok.Native() {
					try(name+" the other way", flipped(right, typ, false), false)
				}
			}
			if tok.Allowed() && !tok.Native() {
				try("any mechanism", flipped(right, pkcs11.CKA_ALLOWED_MECHANISMS, true), false)
			}
		})
		// The two that matter most must have been planted, or nothing was shown.
		for _, name := range []string{"right", "extractable the other way", "modifiable the other way", "encrypt the other way"} {
			if !refusedBy[name] {
				t.Errorf("%s: nothing was planted", name)
			}
		}
	})
}

// TestTwoOfOneName: two objects with the same label and CKA_ID are both refused,
// and so is one whose label was changed to ours (A11).
func TestTwoOfOneName(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		root := importRoot(t, tok, soft, "root", key.AES128, derive.Static)
		writable(t, tok, func(c *pkcs11.Ctx, s pkcs11.SessionHandle) {
			template := tok.Template(root, true)
			if tok.Native() {
				template = flipped(flipped(template, pkcs11.CKA_COPYABLE, true), pkcs11.CKA_ALLOWED_MECHANISMS, true)
			}
			renamed := derive.Root{Label: unique(t, "renamed"), Algorithm: key.AES128, Class: derive.Static, KCV: root.Root().KCV}
			modifiable := template[len(template)-1]
			if _, err := c.CreateObject(s, append(template[:len(template)-1:len(template)-1],
				pkcs11.NewAttribute(pkcs11.CKA_LABEL, renamed.Label), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte("another id")),
				pkcs11.NewAttribute(pkcs11.CKA_VALUE, soft.Value(root)), modifiable)); err != nil {
				t.Fatal(err)
			}
			wantCode(t, "a label without its CKA_ID", tok.Check(ctx, renamed), "key_state")
			if err := plant(c, s, root.Root().Label, template, value("another", key.AES128)); err != nil {
				if tok.Native() {
					t.Logf("NSS refuses a second object of one CKA_ID: %v", err)
					return
				}
				t.Fatal(err)
			}
		})
		wantCode(t, "two of one name", tok.Check(ctx, root.Root()), "key_state")
	})
}

// TestTemplateMutants creates, for each class, an object that differs from its
// template in one attribute: the read-back refuses each that the token made.
func TestTemplateMutants(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		master := importRoot(t, tok, new(derivetest.Token), "m", key.AES128, derive.Static)
		var keys []*derive.Key
		for c := derive.Static; c <= derive.Transport; c++ {
			keys = append(keys, cardKey(t, master, 1, diversify.MAC, c))
		}
		for _, c := range []derive.Class{derive.StaticCBC, derive.SessionENC, derive.SessionRetail, derive.DataEncryption} {
			keys = append(keys, derive.FromRoot(derive.Root{Algorithm: key.TDEA2, Class: c}))
		}
		mutants := 0
		for _, k := range keys {
			c := k.Class()
			template := tok.Template(k, false)
			create := func(s pkcs11.SessionHandle, raw *pkcs11.Ctx, change []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
				end := change[len(change)-1]
				return raw.CreateObject(s, append(change[:len(change)-1:len(change)-1], pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 16)), end))
			}
			writable(t, tok, func(raw *pkcs11.Ctx, s pkcs11.SessionHandle) {
				h, err := create(s, raw, template)
				if err != nil || tok.VerifyObject(s, h, k) != nil {
					t.Fatalf("class %d: the template itself is refused: %v", c, err)
				}
				for _, a := range template {
					if _, ok := flags[a.Type]; !ok {
						continue
					}
					h, err := create(s, raw, flipped(template, a.Type, false))
					if err != nil {
						continue // the token refuses it
					}
					mutants++
					if tok.VerifyObject(s, h, k) == nil {
						t.Errorf("class %d with another %s is accepted", c, flags[a.Type])
					}
				}
			})
		}
		if mutants < 60 {
			t.Errorf("only %d mutants could be made", mutants)
		}
		t.Logf("%d mutants refused", mutants)
	})
}
