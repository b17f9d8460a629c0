package hsm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/softhsm/testtoken"
)

// three opens two tokens of SoftHSM2, which share a library, and one of NSS.
func three(t *testing.T) (a, b, nss *hsm.Token, kept string) {
	t.Helper()
	first := softHSM(t)
	second, kept, err := testtoken.FurtherSoftHSM("cardkms-second")
	if err != nil {
		t.Fatal(err)
	}
	other, err := testtoken.NSSConfig(filepath.Join(t.TempDir(), "nss"))
	if err != nil {
		t.Fatal(err)
	}
	second.Logger, other.Logger = quiet, quiet
	// When b is away, the sessions of a get the numbers that those of b had.
	b = openToken(t, second)
	return openToken(t, first), b, openToken(t, other), kept
}

// TestTokensOfOneLibrary runs three tokens at once, and each with its own keys although
// two of them have handles out of one series; whatever one of them goes through, the
// others go on, and nobody computes under a key of another.
func TestTokensOfOneLibrary(t *testing.T) {
	if !inChild(t) {
		return
	}
	a, b, nss, kept := three(t)
	wa, wb, wn := newWorkload(t, a, 8), newWorkload(t, b, 8), newWorkload(t, nss, 8)
	serve := func(when string, want map[*hsm.Token]fault.Code) {
		t.Helper()
		var wg sync.WaitGroup
		for tok, w := range map[*hsm.Token]*workload{a: wa, b: wb, nss: wn} {
			wg.Go(func() {
				for n := range 64 {
					if err := w.one(tok, n); fault.CodeOf(err) != want[tok] && (want[tok] != "" || err != nil) {
						t.Errorf("%s, %s: %v", when, tok.Description(), err)
					}
				}
			})
		}
		wg.Wait()
	}
	serve("at first", nil)
	for range 5 {
		if err := b.Reinitialise(); err != nil {
			t.Fatal(err)
		}
		serve("after the library began anew", nil)
	}
	if err := os.Rename(kept, kept+"-away"); err != nil {
		t.Fatal(err)
	}
	parked := filepath.Join(t.TempDir(), "parked")
	if err := os.Rename(kept+"-away", parked); err != nil {
		t.Fatal(err)
	}
	if labels, err := b.Labels(ctx); fault.CodeOf(err) != fault.TokenUnavailable {
		t.Errorf("a token that was taken away is taken for one that holds %q: %v", labels, err)
	}
	b.ForgiveLoss()
	wantCode(t, "a token that was taken away", b.Ready(ctx), fault.TokenUnavailable)
	// Its sessions and its slot have numbers that may be those of the first token now.
	labels, err := b.Labels(ctx)
	wantCode(t, fmt.Sprintf("what a token that is away holds (%q)", labels), err, fault.TokenUnavailable)
	wantCode(t, "destroying what it may take for its own", b.Destroy(ctx, wa.macs[0].Parent().Root().Label), fault.TokenUnavailable)
	_, err = b.Random(ctx, 8)
	wantCode(t, "its random numbers", err, fault.TokenUnavailable)
	for range 3 {
		b.ForgiveLoss() // the next operation looks for it again
		serve("while one is away", map[*hsm.Token]fault.Code{b: fault.TokenUnavailable})
	}
	if err := a.Reinitialise(); err != nil {
		t.Errorf("the one that is there connects again: %v", err)
	}
	wantCode(t, "making a key in the token that is away", func() error {
		_, err := b.Generate(ctx, unique(t, "none"), key.AES256, derive.Static)
		return err
	}(), fault.TokenUnavailable)
	if err := os.Rename(parked, kept); err != nil {
		t.Fatal(err)
	}
	b.ForgiveLoss()
	if err := b.Ready(ctx); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	serve("after it came back", nil)
	b.Close()
	serve("after one was closed", map[*hsm.Token]fault.Code{b: fault.Internal})
}

// TestTokenComesLate: a token that its library did not see when it was initialised is
// found, and the other one goes on with its keys. A token is open once.
func TestTokenComesLate(t *testing.T) {
	if !inChild(t) {
		return
	}
	second, kept, err := testtoken.FurtherSoftHSM("cardkms-late")
	if err != nil {
		t.Fatal(err)
	}
	first := softHSM(t)
	parked := filepath.Join(t.TempDir(), "parked")
	if err := os.Rename(kept, parked); err != nil {
		t.Fatal(err)
	}
	second.Logger = quiet
	a := openToken(t, first)
	w := newWorkload(t, a, 4)
	goesOn := func(when string) {
		t.Helper()
		for n := range 16 {
			if err := w.one(a, n); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	if _, err := hsm.Open(ctx, second); err == nil || hsm.PINRefused(err) {
		t.Errorf("a token that is not there: %v", err)
	}
	goesOn("while one is not there")
	if err := os.Rename(parked, kept); err != nil {
		t.Fatal(err)
	}
	wrong := second
	wrong.PIN = secret.New([]byte("000000"))
	if _, err := hsm.Open(ctx, wrong); !hsm.PINRefused(err) {
		t.Errorf("a wrong PIN: %v", err)
	}
	goesOn("while one refuses its PIN")
	openToken(t, second)
	goesOn("with a second token")
	if _, err := hsm.Open(ctx, second); err == nil {
		t.Error("a token is open twice")
	}
	second.Label, second.InitArgs = "another", "configdir=elsewhere"
	if _, err := hsm.Open(ctx, second); err == nil {
		t.Error("a library is in use with two reserved strings")
	}
	goesOn("after refusals")
}
