package hsm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/secret"
	"cardkms/softhsm/faulty"
)

// TestOneLogin counts C_Login in the log of pkcs11-spy. A wrong PIN at the start,
// and a PIN that stopped being right at a reconnect, are each presented once:
// HSMs lock after a few.
func TestOneLogin(t *testing.T) {
	log := os.Getenv("PKCS11SPY_OUTPUT")
	if log == "" {
		log = filepath.Join(t.TempDir(), "spy.log")
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
	logins := func(when string, want int) {
		t.Helper()
		b, err := os.ReadFile(log)
		if n := bytes.Count(b, []byte(": C_Login\n")); err != nil || n != want {
			t.Errorf("%s: %d calls of C_Login (%v), want %d", when, n, err, want)
		}
	}
	wrong := cfg
	wrong.PIN = secret.New([]byte("000000"))
	if _, err := hsm.Open(ctx, wrong); !hsm.PINRefused(err) {
		t.Errorf("a wrong PIN: %v", err)
	}
	logins("after opening with a wrong PIN", 1)

	tok := openToken(t, cfg)
	w := newWorkload(t, tok, 2)
	logins("after opening with the right one", 2)
	for round := range 3 {
		if err := tok.Reinitialise(); err != nil {
			t.Fatal(err)
		}
		if err := w.one(tok, round); err != nil {
			t.Error(err)
		}
	}
	logins("after three reconnects", 5)

	raw, slot := tok.Raw()
	s, err := raw.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.SetPIN(s, string(cfg.PIN.Reveal()), "another-pin"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "connecting with the old PIN", tok.Reinitialise(), fault.TokenUnavailable)
	for n := range 100 {
		tok.ForgiveLoss()
		wantCode(t, "traffic with the old PIN", w.one(tok, n), fault.TokenUnavailable)
	}
	wantCode(t, "connecting again", tok.Reinitialise(), fault.TokenUnavailable)
	logins("after the PIN was changed", 6)
}

// TestPINSource: a PIN that is not kept is asked for at each connection, and wiped. While
// it cannot be had the token stays lost, which is no reason not to ask again.
func TestPINSource(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg := softHSM(t)
	pin, asked := cfg.PIN.Reveal(), 0
	var given []byte
	away := errors.New("away")
	var fails error
	cfg.PIN = secret.Bytes{}
	cfg.PINSource = func() (secret.Bytes, error) {
		asked++
		given = bytes.Clone(pin)
		return secret.New(given), fails
	}
	tok := openToken(t, cfg)
	w := newWorkload(t, tok, 1)
	if asked != 1 || bytes.Equal(given, pin) {
		t.Errorf("asked %d times, and the PIN is still there", asked)
	}
	fails = away
	if err := tok.Reinitialise(); !errors.Is(err, away) {
		t.Errorf("without a PIN: %v", err)
	}
	fails = nil
	tok.ForgiveLoss()
	if err := w.one(tok, 1); err != nil {
		t.Error(err)
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

// TestSlowLibrary: a library that was slow to begin anew is no login that was late, so an
// error that the token answers to its PIN at once is one to try again after.
func TestSlowLibrary(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	cfg.CallWait = 100 * time.Millisecond
	tok := openToken(t, cfg)
	must(t, tok.LoseSessions())
	module.Fail(numberOf("C_Login"), faulty.Before, pkcs11.CKR_DEVICE_ERROR, 1)
	module.Hang(numberOf("C_Initialize"), 1)
	wantCode(t, "a library that hangs", tok.Ready(ctx), fault.TokenUnavailable)
	hangs(t, cfg.Module, true)
	module.Hang(-1, 0)
	hangs(t, cfg.Module, false)
	if module.Hits() != 1 {
		t.Errorf("%d logins failed", module.Hits())
	}
	module.Heal()
	eventually(t, "it is connected again", func() error { tok.ForgiveLoss(); return tok.Ready(ctx) })
}

// TestLateLoginOfOpening: an opening whose login was late and failed says so to whoever still
// waits, and presents the PIN no second time.
func TestLateLoginOfOpening(t *testing.T) {
	if !inChild(t) {
		return
	}
	first, second, module := twoFaulty(t)
	second.CallWait = time.Second
	openToken(t, first)
	login := numberOf("C_Login")
	before := module.Calls(login)
	module.Fail(login, faulty.Before, pkcs11.CKR_DEVICE_ERROR, 1)
	module.Hang(login, 1)
	go func() {
		for module.Calls(login) == before {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(3 * second.CallWait / 2)
		module.Hang(-1, 0)
	}()
	if _, err := hsm.Open(ctx, second); !hsm.PINUnanswered(err) {
		t.Errorf("the opening says %v", err)
	}
	if n := module.Calls(login) - before; n != 1 {
		t.Errorf("%d logins", n)
	}
}
