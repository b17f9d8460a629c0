package hsm_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/faulty"
)

func numberOf(function string) int { return slices.Index(faulty.Functions, function) }

// given waits until a call hangs that somebody gave up.
func given(t *testing.T, tok *hsm.Token) {
	t.Helper()
	for end := time.Now().Add(time.Minute); tok.Hung() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no call hangs")
		}
	}
}

// eventually tries until it works.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
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
		given(t, tok)
		module.Hang(-1, 0)
		eventually(t, "it comes back", func() error {
			if module.Hits() == 0 {
				return errors.New("it hangs")
			}
			return nil
		})
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
		given(t, tok)
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
		given(t, tok)
		tok.Close()
		module.Heal()
		eventually(t, "it can be opened again", func() (err error) { tok, err = hsm.Open(ctx, cfg); return err })
		must(t, random(tok)())
		tok.Close()
	})
}
