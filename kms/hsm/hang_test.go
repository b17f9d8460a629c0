package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/kmstest"
	"cardkms/kms/secret"
	"cardkms/softhsm/faulty"
)

func numberOf(function string) int { return slices.Index(faulty.Functions, function) }

// hangs waits until a call of a module hangs that somebody gave up, or until none does.
func hangs(t *testing.T, module string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprint("a call hangs: ", want), func() error {
		if n := hsm.Hung(module); n > 0 != want {
			return fmt.Errorf("%d calls hang", n)
		}
		return nil
	})
}

// eventually tries until it works.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	kmstest.Until(t, what, func() bool { err = f(); return err == nil }, func() string { return fmt.Sprint(err) })
}

// TestHangs: calls that hang, and come back with an error, or after their token was
// closed, leave a token that works.
func TestHangs(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait, cfg.LeaseWait = 500*time.Millisecond, 200*time.Millisecond
	random := func(tok *hsm.Token) func() error {
		return func() error { _, err := tok.Random(ctx, 8); return err }
	}
	tok, err := hsm.Open(ctx, cfg)
	must(t, err)
	t.Run("and then the token was lost", func(t *testing.T) {
		module.Fail(numberOf("C_GenerateRandom"), faulty.Before, pkcs11.CKR_DEVICE_ERROR, 1)
		module.Hang(numberOf("C_GenerateRandom"), 1)
		if random(tok)() == nil {
			t.Error("a call that hangs was answered")
		}
		hangs(t, cfg.Module, true)
		module.Hang(-1, 0)
		hangs(t, cfg.Module, false)
		eventually(t, "it is connected again", random(tok))
		eventually(t, "it makes objects", func() error { return tok.Anchor("hang").Keep(ctx, []byte("one")) })
	})
	t.Run("and others go on", func(t *testing.T) {
		root, forget, err := tok.ImportVolatile(ctx, "volatile", key.AES128, derive.Static, make([]byte, 16))
		must(t, err)
		k, err := diversify.Card(diversify.KDF3, root, make([]byte, 10), diversify.Target{Purpose: diversify.MAC, Class: derive.SessionMAC, Algorithm: key.AES128})
		must(t, err)
		mac := func() error { _, err := tok.MAC(ctx, k, message); return err }
		must(t, mac())
		module.Hang(numberOf("C_DestroyObject"), 1)
		forget()
		hangs(t, cfg.Module, true)
		must(t, random(tok)())
		if err := tok.Anchor("hang").Keep(ctx, []byte("two")); err == nil {
			t.Error("an object was made beside a call that hangs")
		}
		must(t, mac()) // its object is there, whatever became of its root
		module.Heal()
		eventually(t, "it makes objects", func() error { return tok.Anchor("hang").Keep(ctx, []byte("two")) })
	})
	t.Run("and a pair that nobody heard of is none", func(t *testing.T) {
		module.Hang(numberOf("C_FindObjectsInit"), 1)
		if _, err := tok.GenerateSigning(ctx, "hang-sign", key.P256); err == nil {
			t.Error("a pair was made")
		}
		module.Heal()
		eventually(t, "the label is free", func() error {
			taken, err := tok.Taken(ctx, "hang-sign")
			if err == nil && taken {
				err = errors.New("the label is taken")
			}
			return err
		})
	})
	t.Run("and the token was closed", func(t *testing.T) {
		module.Hang(numberOf("C_GenerateRandom"), 1)
		if random(tok)() == nil {
			t.Error("a call that hangs was answered")
		}
		hangs(t, cfg.Module, true)
		tok.Close()
		module.Heal()
		eventually(t, "it can be opened again", func() (err error) { tok, err = hsm.Open(ctx, cfg); return err })
		must(t, random(tok)())
		tok.Close()
	})
}

// TestSearchHangs: nobody waits for a search of another that hangs, also for the same root.
func TestSearchHangs(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait = 500 * time.Millisecond
	tok := openToken(t, cfg)
	root, err := tok.Generate(ctx, "searched", key.AES256, derive.SessionMAC)
	must(t, err)
	k := derive.FromRoot(root)
	module.Hang(numberOf("C_FindObjectsInit"), 1)
	defer module.Heal()
	_, err = tok.MAC(ctx, k, message)
	wantCode(t, "a search that hangs", err, fault.TokenUnavailable)
	_, err = tok.MAC(ctx, k, message)
	must(t, err)
	hangs(t, cfg.Module, true)
}

// TestSweepHangs: an operation that has an object destroyed which left the table answers
// before it does.
func TestSweepHangs(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.Objects, cfg.CallWait = 1, 500*time.Millisecond
	tok := openToken(t, cfg)
	w := newWorkload(t, tok, 2)
	for n := range 6 { // each makes the key of the one before leave
		if n == 2 { // the masters are known: nothing else is destroyed
			settled(t, tok, -1)
			module.Hang(numberOf("C_DestroyObject"), 1)
			defer module.Heal()
		}
		must(t, w.one(tok, 4*n))
	}
	hangs(t, cfg.Module, true)
}

// TestOpeningHangs: an opening whose call hangs is given up, and presents no PIN when the
// call comes back. One that hangs with the PIN says so, and wipes it when it comes back. What
// the token can do, which is tried after that, is not taken from a call that hangs.
func TestOpeningHangs(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait = 100 * time.Millisecond
	pin, given := cfg.PIN.Reveal(), []byte(nil)
	cfg.PINSource = func() (secret.Bytes, error) {
		given = bytes.Clone(pin)
		return secret.New(given), nil
	}
	login := numberOf("C_Login")
	var tok *hsm.Token
	for i, function := range []string{"C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_GenerateKey", "C_WrapKey"} {
		before, mayPresent := module.Calls(login), 1
		if i < 3 { // before the login
			mayPresent = 0
		}
		module.Hang(numberOf(function), 1)
		for try := range 2 {
			_, err := hsm.Open(ctx, cfg)
			presented := try == 0 && function == "C_Login"
			if fault.CodeOf(err) != fault.TokenUnavailable || hsm.PINRefused(err) || hsm.PINUnanswered(err) != presented {
				t.Errorf("%s, try %d: %v", function, try, err)
			}
		}
		if function == "C_Login" && !bytes.Equal(given, pin) {
			t.Error("the PIN was wiped while the call that has it hangs")
		}
		module.Heal()
		hangs(t, cfg.Module, false)
		if n := module.Calls(login) - before; n != mayPresent || bytes.Equal(given, pin) {
			t.Errorf("%s: the PIN was presented %d times, and is %x", function, n, given)
		}
		eventually(t, "it can be opened", func() (err error) { tok, err = hsm.Open(ctx, cfg); return err })
		must(t, tok.Ready(ctx))
		tok.Close()
	}
}

// TestLoginHangsAgain: a login that hangs when a token is connected again is given up; if
// it comes back well the token serves, and if not its PIN is presented no more.
func TestLoginHangsAgain(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait = 100 * time.Millisecond
	tok := openToken(t, cfg)
	login := numberOf("C_Login")
	lose := func(ckr uint) {
		t.Helper()
		tok.ForgiveLoss()
		must(t, tok.LoseSessions())
		if ckr != pkcs11.CKR_OK {
			module.Fail(login, faulty.Before, ckr, 1)
		}
		module.Hang(login, 1)
		wantCode(t, "a login that hangs", tok.Ready(ctx), fault.TokenUnavailable)
		hangs(t, cfg.Module, true)
		module.Hang(-1, 0)
		hangs(t, cfg.Module, false)
	}
	before := module.Calls(login)
	lose(pkcs11.CKR_OK)
	eventually(t, "it serves", func() error { return tok.Ready(ctx) })
	lose(pkcs11.CKR_DEVICE_ERROR)
	for range 20 {
		tok.ForgiveLoss()
		wantCode(t, "after the login failed", tok.Ready(ctx), fault.TokenUnavailable)
	}
	if n := module.Calls(login) - before; n != 2 {
		t.Errorf("%d logins", n)
	}
}
