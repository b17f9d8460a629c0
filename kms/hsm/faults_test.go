package hsm_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/faulty"
)

// troubles are the return values of a token in trouble, of RELIABILITY: a fault is one of
// them from one function, before or after it did its work.
var troubles = []uint{
	pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_SESSION_CLOSED,
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_COUNT, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_GENERAL_ERROR,
}

// ofRecovery are functions that are only called when something was lost before.
var ofRecovery = []string{
	"C_Login", "C_OpenSession", "C_CloseSession", "C_GetSessionInfo", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue",
	"C_Initialize", "C_GetSlotList",
}

// patient is a token whose library fails on purpose.
type patient struct {
	*hsm.Token
	t        *testing.T
	module   *faulty.Module
	work     *workload
	dek, new *derive.Key
	root     derive.Root
}

// TestFaults has each function fail with each return value, before and after its work.
// No operation gives a wrong answer, what fails is the token's unavailability and nothing
// else, and when the fault is over everything works again, without another start.
func TestFaults(t *testing.T) {
	if !inChild(t) {
		return
	}
	p := newPatient(t)
	hits := map[string]int{}
	ran := 0
	for number, function := range faulty.Functions {
		for _, ckr := range troubles {
			for _, when := range []faulty.When{faulty.Before, faulty.After} {
				hits[function] += p.suffer(number, function, ckr, when)
				ran++
			}
		}
	}
	for _, function := range faulty.Functions {
		if hits[function] == 0 {
			t.Errorf("%s never failed, so nothing was tried", function)
		}
	}
	t.Logf("%d faults", ran)
}

// faultyToken returns how to open the token through a module that can fail.
func faultyToken(t *testing.T) (hsm.Config, *faulty.Module) {
	t.Helper()
	return faultyFor(t, softHSM(t))
}

// faultyFor has a token be opened through a module that can fail.
func faultyFor(t *testing.T, cfg hsm.Config) (hsm.Config, *faulty.Module) {
	t.Helper()
	headers, err := faulty.Headers(ctx)
	must(t, err)
	module, err := faulty.Build(ctx, t.TempDir(), cfg.Module, headers)
	must(t, err)
	cfg.Module = module.Path
	return cfg, module
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	cfg, module := faultyToken(t)
	p := &patient{t: t, module: module}
	p.Token = openToken(t, cfg)
	p.work = newWorkload(t, p.Token, 4)
	soft := new(derivetest.Token)
	master := importRoot(t, p.Token, soft, "master", key.AES128, derive.Static)
	p.dek = cardKey(t, master, 1, diversify.DEK, derive.DataEncryption)
	p.new = cardKey(t, master, 2, diversify.ENC, derive.Transport)
	var err error
	p.root, err = p.Generate(ctx, unique(t, "root"), key.AES256, derive.SessionMAC)
	must(t, err)
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// operations runs everything that a service asks of a token, and returns what went wrong.
func (p *patient) operations(all bool) (errs []error) {
	for n := range 8 {
		errs = append(errs, p.work.one(p.Token, n))
	}
	_, err := p.Random(ctx, 8)
	errs = append(errs, err, p.Ready(ctx), p.Check(ctx, p.root))
	_, err = p.Wrap(ctx, p.dek, p.new)
	errs = append(errs, err)
	p.Release(p.new, p.dek)
	if all { // writes a file, and leaves an object
		_, err = p.Generate(ctx, unique(p.t, "made"), key.AES128, derive.Static)
		errs = append(errs, err)
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// suffer has a function fail while the token works, and looks that it recovers.
func (p *patient) suffer(number int, function string, ckr uint, when faulty.When) (hits int) {
	what := fmt.Sprintf("%s: %v %s", function, pkcs11.Error(ckr), []string{"before", "after"}[when])
	p.ForgiveLoss()
	if slices.Contains(ofRecovery, function) {
		must(p.t, p.LoseSessions())
	}
	generates := function == "C_GenerateKey"
	logins := p.module.Calls(0)
	p.module.Fail(number, when, ckr, 2)
	for _, err := range p.operations(generates) {
		if fault.CodeOf(err) != fault.TokenUnavailable {
			p.t.Errorf("%s: %v", what, err)
		}
	}
	hits = p.module.Hits()
	p.module.Heal()
	var errs []error
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		p.ForgiveLoss()
		if errs = p.operations(generates); len(errs) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(errs) > 0 {
		p.t.Fatalf("%s: the token did not recover: %v", what, errors.Join(errs...))
	}
	// One login for each time that the library was started again, and no more.
	if n := p.module.Calls(0) - logins; n > 4 {
		p.t.Errorf("%s: %d logins", what, n)
	}
	return hits
}

// TestPairHalfDestroyed: a pair of which one half went, and then something failed, is
// destroyed by the next attempt; so is one of which either half is left.
func TestPairHalfDestroyed(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyToken(t)
	tok := openToken(t, cfg)
	raw, _ := tok.Raw()
	lose := func(class uint) {
		is := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "half")}
		must(t, tok.WithFound(is, raw.DestroyObject))
	}
	for what, f := range map[string]func(){
		"a failure in between": func() {
			module.Fail(numberOf("C_DestroyObject"), faulty.After, pkcs11.CKR_FUNCTION_FAILED, 1)
			if tok.Destroy(ctx, "half") == nil || module.Hits() != 1 {
				t.Error("no half of the pair failed to go")
			}
			module.Heal()
		},
		"the public half is left":  func() { lose(pkcs11.CKO_PRIVATE_KEY) },
		"the private half is left": func() { lose(pkcs11.CKO_PUBLIC_KEY) },
	} {
		_, err := tok.GenerateExchange(ctx, "half")
		must(t, err)
		f()
		if err := tok.Destroy(ctx, "half"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if held, err := tok.Taken(ctx, "half"); held || err != nil {
			t.Errorf("%s: a half of the pair is still there: %v", what, err)
		}
	}
	if tok.Destroy(ctx, "half") == nil {
		t.Error("what is not there was destroyed")
	}
}
