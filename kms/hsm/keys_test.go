package hsm_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// TestOperations compares every operation with the software oracle, for every
// AES size: MAC, Encrypt, Decrypt, Matches, Wrap and KCV, on roots and derived
// keys.
func TestOperations(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		for _, a := range []key.Algorithm{key.AES128, key.AES192, key.AES256} {
			soft := new(derivetest.Token)
			master := importRoot(t, tok, soft, "master "+string(a), a, derive.Static)
			mac := cardKey(t, master, 1, diversify.MAC, derive.SessionMAC)
			enc := cardKey(t, master, 1, diversify.ENC, derive.SessionENC)
			pkg := cardKey(t, master, 2, diversify.ENC, derive.PackageENC)
			dek := cardKey(t, master, 1, diversify.DEK, derive.DataEncryption)
			transport := cardKey(t, master, 3, diversify.DEK, derive.Transport)
			for _, n := range []int{0, 1, 16, 17, 255, 4096} {
				message := bytes.Repeat([]byte{0x5A}, n)
				got, err := tok.MAC(ctx, mac, message)
				want, _ := soft.MAC(ctx, mac, message)
				compare(t, "MAC", got, err, want)
			}
			for _, k := range []*derive.Key{enc, pkg} {
				data := bytes.Repeat([]byte{1, 2, 3, 4}, 12)
				got, err := tok.Encrypt(ctx, k, data)
				want, _ := soft.Encrypt(ctx, k, data)
				compare(t, "Encrypt", got, err, want)
			}
			iv := bytes.Repeat([]byte{7}, 16)
			got, err := tok.Decrypt(ctx, enc, iv, make([]byte, 32))
			want, _ := soft.Decrypt(ctx, enc, iv, make([]byte, 32))
			compare(t, "Decrypt", got, err, want)
			if got, err = tok.Wrap(ctx, dek, transport); a != key.AES192 || fault.CodeOf(err) != fault.TokenUnable {
				want, _ = soft.Wrap(ctx, dek, transport)
				compare(t, "Wrap", got, err, want)
			}
			for _, k := range []*derive.Key{master, mac, transport} {
				got, err := tok.KCV(ctx, k)
				if want, _ := soft.KCV(ctx, k); err != nil || got != want {
					t.Errorf("%s: the check value is %v (%v), want %v", a, got, err, want)
				}
			}
			matches(t, tok, soft, master, mac.Step())
			tok.Release(mac, enc, pkg, dek, transport)
		}
	})
}

func compare(t *testing.T, what string, got []byte, err error, want []byte) {
	t.Helper()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s gives %X (%v), want %X", what, got, err, want)
	}
}

// matches flips every bit of the value, and asks for every length of prefix.
func matches(t *testing.T, tok *hsm.Token, soft *derivetest.Token, base *derive.Key, s derive.Step) {
	t.Helper()
	right := soft.Value(base.Derive(s))
	for n := range len(right) + 1 {
		ok, err := tok.Matches(ctx, base, s, right[:n])
		if n == 0 {
			// Every key begins with no bytes: yes would be an answer to nothing.
			if ok || err == nil {
				t.Error("an empty value matches")
			}
			continue
		}
		if err != nil || !ok {
			t.Errorf("the leading %d bytes: %t, %v", n, ok, err)
		}
	}
	for bit := range 8 * 8 {
		v := bytes.Clone(right[:8])
		v[bit/8] ^= 1 << (bit % 8)
		if ok, err := tok.Matches(ctx, base, s, v); ok || err != nil {
			t.Errorf("bit %d: %t, %v", bit, ok, err)
		}
	}
}

// TestClassMisuse gives each method a key of every other class: each is refused
// before the token is asked, which shows in that no object was made.
func TestClassMisuse(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		master := importRoot(t, tok, soft, "master", key.AES128, derive.Static)
		of := func(c derive.Class) *derive.Key { return cardKey(t, master, 9, diversify.MAC, c) }
		block := make([]byte, 16)
		methods := map[string]struct {
			allowed []derive.Class
			call    func(k *derive.Key) error
		}{
			"MAC": {[]derive.Class{derive.SessionMAC}, func(k *derive.Key) error { _, err := tok.MAC(ctx, k, block); return err }},
			"Encrypt": {[]derive.Class{derive.SessionENC, derive.PackageENC},
				func(k *derive.Key) error { _, err := tok.Encrypt(ctx, k, block); return err }},
			"Decrypt": {[]derive.Class{derive.SessionENC},
				func(k *derive.Key) error { _, err := tok.Decrypt(ctx, k, block, block); return err }},
			"Matches": {[]derive.Class{derive.Static},
				func(k *derive.Key) error {
					_, err := tok.Matches(ctx, k, master.Derive(of(derive.Static).Step()).Step(), block)
					return err
				}},
			"Wrap with": {[]derive.Class{derive.DataEncryption},
				func(k *derive.Key) error { _, err := tok.Wrap(ctx, k, of(derive.Transport)); return err }},
			"Wrap of": {[]derive.Class{derive.Transport},
				func(k *derive.Key) error { _, err := tok.Wrap(ctx, of(derive.DataEncryption), k); return err }},
			"derive from": {[]derive.Class{derive.Static}, func(k *derive.Key) error {
				child := k.Derive(derive.Step{Function: derive.ECB, Messages: [][]byte{block}, Class: derive.SessionMAC, Algorithm: key.AES128})
				defer tok.Release(child)
				_, err := tok.MAC(ctx, child, block)
				return err
			}},
		}
		for name, m := range methods {
			for c := derive.Static; c <= derive.Transport; c++ {
				k := of(c)
				before := tok.LiveObjects()
				err := m.call(k)
				ok := false
				for _, a := range m.allowed {
					ok = ok || a == c
				}
				if ok != (err == nil) {
					t.Errorf("%s a key of class %d: %v", name, c, err)
				}
				if !ok && tok.LiveObjects() != before {
					t.Errorf("%s a key of class %d: the token was asked", name, c)
				}
				tok.Release(k, of(derive.DataEncryption), of(derive.Static), of(derive.Transport))
			}
		}
		for _, n := range []int{0, 1, 15, 17} {
			if _, err := tok.Encrypt(ctx, of(derive.SessionENC), make([]byte, n)); err == nil {
				t.Errorf("%d bytes were encrypted", n)
			}
			if _, err := tok.Decrypt(ctx, of(derive.SessionENC), block, make([]byte, n)); err == nil {
				t.Errorf("%d bytes were decrypted", n)
			}
			if _, err := tok.Decrypt(ctx, of(derive.SessionENC), make([]byte, n), block); err == nil {
				t.Errorf("an IV of %d bytes was taken", n)
			}
		}
	})
}

// TestRootClasses makes a root of every class: a check value is computed with
// what the class may do and nothing else, a class that cannot be a root is
// refused, and a refused root leaves its label free.
func TestRootClasses(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		for c := derive.Static; c <= derive.Transport; c++ {
			label := unique(t, string(rune('0'+c)))
			r, err := tok.Generate(ctx, label, key.AES256, c)
			if c == derive.Transport {
				wantCode(t, "a Transport root", err, fault.InvalidInput)
				_, err = tok.Generate(ctx, label, key.AES256, derive.Static)
				wantCode(t, "its label afterwards", err, fault.OK)
				continue
			}
			if err != nil {
				t.Errorf("class %d: %v", c, err)
				continue
			}
			wantCode(t, "checking it", tok.Check(ctx, r), fault.OK)
			v := value(label, key.AES256)
			imported, err := tok.Import(ctx, label+"i", key.AES256, c, secret.New(bytes.Clone(v)))
			want := derivetest.KCV(key.AES256, v)
			if c == derive.SessionMAC {
				zero := derivetest.CMAC(derivetest.Cipher(key.AES256, v), make([]byte, 16), 1)
				want = key.KCV{Method: key.KCVCMAC, Value: hexUpper(zero[:3])}
			}
			if err != nil || imported.KCV != want {
				t.Errorf("class %d: the check value is %v (%v), want %v", c, imported.KCV, err, want)
			}
		}
	})
}

// TestNames: a label is taken once, whoever asks; an unknown one, another check
// value, class or algorithm under a known label, are refused.
func TestNames(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		label := unique(t, "root")
		r, err := tok.Generate(ctx, label, key.AES128, derive.Static)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tok.Generate(ctx, label, key.AES256, derive.Static)
		wantCode(t, "generating it again", err, fault.Conflict)
		v := secret.New(bytes.Repeat([]byte{9}, 16))
		_, err = tok.Import(ctx, label, key.AES128, derive.Static, v)
		wantCode(t, "importing over it", err, fault.Conflict)
		if !v.Equal(secret.New(make([]byte, 16))) {
			t.Error("the value of a refused import was not wiped")
		}
		_, err = tok.Import(ctx, label+"2", key.AES128, derive.Static, secret.New(make([]byte, 17)))
		wantCode(t, "a value of 17 bytes", err, fault.InvalidInput)
		_, err = tok.GenerateSigning(ctx, label, key.P256)
		wantCode(t, "a signing key of that name", err, fault.Conflict)

		for name, change := range map[string]func(*derive.Root){
			"unknown label":     func(r *derive.Root) { r.Label += "x" },
			"another KCV":       func(r *derive.Root) { r.KCV.Value = "000000" },
			"no KCV":            func(r *derive.Root) { r.KCV = key.KCV{} },
			"another method":    func(r *derive.Root) { r.KCV.Method = key.KCVCMAC },
			"another class":     func(r *derive.Root) { r.Class = derive.SessionMAC },
			"another algorithm": func(r *derive.Root) { r.Algorithm = key.TDEA2 },
		} {
			other := r
			change(&other)
			for _, when := range []string{"before", "after"} {
				if when == "after" { // the right one was found and stays
					wantCode(t, "the right one", tok.Check(ctx, r), fault.OK)
				}
				err := tok.Check(ctx, other)
				if name != "another class" && name != "another algorithm" || when == "after" {
					wantCode(t, name+" "+when+" the right one was found", err, fault.KeyState)
				} else if err == nil {
					t.Errorf("%s is accepted", name)
				}
			}
			if err := tok.Reinitialise(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func hexUpper(b []byte) string {
	const digits = "0123456789ABCDEF"
	var out []byte
	for _, x := range b {
		out = append(out, digits[x>>4], digits[x&15])
	}
	return string(out)
}
