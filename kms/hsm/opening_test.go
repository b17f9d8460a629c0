package hsm_test

import (
	"crypto/ecdh"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/secret"
	"cardkms/softhsm/faulty"
	"cardkms/softhsm/testtoken"
)

// twoFaulty returns how to open two tokens of one library that can fail.
func twoFaulty(t *testing.T) (first, second hsm.Config, module *faulty.Module) {
	t.Helper()
	first, module = faultyToken(t)
	second, _, err := testtoken.FurtherSoftHSM("cardkms-beside")
	must(t, err)
	second.Module, second.Logger = first.Module, quiet
	return first, second, module
}

// called waits until a function of the module is called more often than before.
func called(t *testing.T, what string, module *faulty.Module, function, before int) {
	t.Helper()
	eventually(t, what, func() error {
		if module.Calls(function) == before {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestOpeningBeside: while a token of a library that is in use is opened and does not answer,
// the other one serves.
func TestOpeningBeside(t *testing.T) {
	if !inChild(t) {
		return
	}
	first, second, module := twoFaulty(t)
	first.CallWait = time.Second
	tok := openToken(t, first)
	w := newWorkload(t, tok, 2)
	for _, function := range []string{"C_GetSlotList", "C_OpenSession", "C_Login"} {
		calls := module.Calls(numberOf(function))
		module.Hang(numberOf(function), 1)
		done := make(chan error)
		var opened *hsm.Token
		go func() {
			var err error
			opened, err = hsm.Open(ctx, second)
			done <- err
		}()
		called(t, "the opening hangs", module, numberOf(function), calls)
		for n := range 8 {
			if err := w.one(tok, n); err != nil {
				t.Errorf("%s hangs: %v", function, err)
			}
		}
		module.Heal()
		must(t, <-done)
		must(t, opened.Ready(ctx))
		opened.Close()
	}
}

// TestOpeningForNobody: an opening that was given up begins no new life of the library, in
// which the PINs of the others would be presented, and leaves no login behind.
func TestOpeningForNobody(t *testing.T) {
	if !inChild(t) {
		return
	}
	first, second, module := twoFaulty(t)
	second.CallWait = 200 * time.Millisecond
	tok := openToken(t, first)
	absent := second
	absent.Label = "cardkms-absent"
	begun := module.Calls(numberOf("C_Initialize"))
	givenUp := func(function string, cfg hsm.Config) {
		t.Helper()
		module.Hang(numberOf(function), 1)
		if _, err := hsm.Open(ctx, cfg); err == nil {
			t.Error("an opening that hangs was answered")
		}
		hangs(t, cfg.Module, true)
		module.Heal()
		hangs(t, cfg.Module, false)
	}
	givenUp("C_GetSlotList", absent)
	givenUp("C_Login", second)
	must(t, tok.Ready(ctx))
	openToken(t, second) // which is refused to whoever is logged in already
	if n := module.Calls(numberOf("C_Initialize")) - begun; n != 0 {
		t.Errorf("the library began anew %d times", n)
	}
}

// TestAbsentTokenSparesAgreements: what was agreed on with cards ends once for a token that is
// not there, and no more at each attempt to open it, unless nothing is lost by it.
func TestAbsentTokenSparesAgreements(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, err := testtoken.NSSConfig(filepath.Join(t.TempDir(), "nss"))
	must(t, err)
	cfg.Logger = quiet
	tok := openToken(t, cfg)
	absent := cfg
	absent.Label = "cardkms-absent"
	attempt := func(what string, z *derive.Key, want fault.Code) {
		t.Helper()
		if _, err := hsm.Open(ctx, absent); !hsm.Away(err) {
			t.Errorf("an absent token: %v", err)
		}
		if _, err := tok.MAC(ctx, pieces(z)[0], message); (want != "" || err != nil) && fault.CodeOf(err) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	attempt("the first attempt", agreed(t, tok), fault.ChannelClosed)
	z := agreed(t, tok)
	attempt("the second attempt", z, "")
	attempt("the third attempt", z, "")
	tok.Release(pieces(z)[0], z)
	before := tok.Epoch()
	if _, err := hsm.Open(ctx, absent); !hsm.Away(err) || tok.Epoch() == before {
		t.Errorf("with nothing to lose: the library did not begin anew, %v", err)
	}
}

// agreed is a secret that the token agreed on with a card.
func agreed(t *testing.T, tok *hsm.Token) *derive.Key {
	t.Helper()
	ephemeral, _, err := tok.Ephemeral(ctx, "")
	must(t, err)
	defer tok.Release(ephemeral)
	z, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()})
	must(t, err)
	return z
}

// TestLostWhileTried: a token that is lost and found again while it is tried out is not opened
// as one that cannot do what was tried then.
func TestLostWhileTried(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	module.Fail(numberOf("C_WrapKey"), faulty.Before, pkcs11.CKR_DEVICE_ERROR, 1)
	_, err := hsm.Open(ctx, cfg)
	wantCode(t, "a token that was lost meanwhile", err, fault.TokenUnavailable)
	if module.Hits() != 1 {
		t.Errorf("%d calls failed", module.Hits())
	}
	module.Heal()
	for _, c := range openToken(t, cfg).Capabilities() {
		if c.Word == "wrap_aes128" && c.Err != nil {
			t.Errorf("%s: %v", c.Operation, c.Err)
		}
	}
}

// TestTryingStops: after a call that does not answer nothing more is tried of a token.
func TestTryingStops(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait = 200 * time.Millisecond
	module.Hang(numberOf("C_WrapKey"), faulty.Every)
	defer module.Heal()
	_, err := hsm.Open(ctx, cfg)
	wantCode(t, "a token that does not answer", err, fault.TokenUnavailable)
	if n := module.Calls(numberOf("C_WrapKey")); n != 1 {
		t.Errorf("%d calls hang", n)
	}
}

// TestRefusedBeside: a PIN that is refused while a call of another token hangs is known as
// refused, or was not presented at all; so nobody presents it again and again.
func TestRefusedBeside(t *testing.T) {
	if !inChild(t) {
		return
	}
	first, second, module := twoFaulty(t)
	first.CallWait = 200 * time.Millisecond
	tok := openToken(t, first)
	second.PIN = secret.New([]byte("wrong"))
	login := numberOf("C_Login")
	before := module.Calls(login)
	module.Hang(numberOf("C_GenerateRandom"), 1)
	defer module.Heal()
	if _, err := tok.Random(ctx, 8); err == nil {
		t.Fatal("a call that hangs was answered")
	}
	hangs(t, first.Module, true)
	for range 3 {
		if _, err := hsm.Open(ctx, second); err == nil {
			t.Fatal("a wrong PIN opens the token")
		}
	}
	if n := module.Calls(login) - before; n != 0 {
		t.Errorf("the PIN was presented %d times, for nothing", n)
	}
	module.Heal()
	hangs(t, first.Module, false)
	if _, err := hsm.Open(ctx, second); !hsm.PINRefused(err) {
		t.Errorf("then: %v", err)
	}
}

// TestRefusedThenHangs: a PIN that was refused while a token was opened beside others is known
// as refused, although a call of another one hangs when the opening would be joined.
func TestRefusedThenHangs(t *testing.T) {
	if !inChild(t) {
		return
	}
	first, second, module := twoFaulty(t)
	first.CallWait = time.Second
	tok := openToken(t, first)
	second.PIN = secret.New([]byte("wrong"))
	login := numberOf("C_Login")
	before := module.Calls(login)
	module.Hang(login, 1)
	opened := make(chan error)
	go func() {
		_, err := hsm.Open(ctx, second)
		opened <- err
	}()
	called(t, "the login hangs", module, login, before)
	random := numberOf("C_GenerateRandom")
	calls := module.Calls(random)
	over := make(chan struct{})
	go func() { // there is always one on its way, so one hangs as soon as the login does not
		defer close(over)
		for err := error(nil); err == nil; {
			_, err = tok.Random(ctx, 8)
		}
	}()
	called(t, "calls of the other token", module, random, calls)
	module.Hang(random, faulty.Every)
	if err := <-opened; !hsm.PINRefused(err) {
		t.Errorf("the opening says %v", err)
	}
	<-over
	module.Heal()
	if n := module.Calls(login) - before; n != 1 {
		t.Errorf("%d logins", n)
	}
}
