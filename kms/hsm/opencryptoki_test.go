//go:build opencryptoki

package hsm_test

import (
	"os"
	"strings"
	"testing"

	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/probe"
	"cardkms/kms/secret"
)

// opencryptoki is the token of softhsm/testtoken/opencryptoki.sh.
func opencryptoki() hsm.Config {
	return hsm.Config{
		Module: "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0", Label: os.Getenv("CARDKMS_OCK_LABEL"),
		PIN: secret.New([]byte(os.Getenv("CARDKMS_OCK_PIN"))), Logger: quiet,
	}
}

// TestOpencryptoki: a token that derives nothing inside is named for what it cannot do,
// each with a return value of PKCS#11, gives no wrong answer, and is not opened to serve.
func TestOpencryptoki(t *testing.T) {
	tok, err := hsm.OpenAny(ctx, opencryptoki())
	if err != nil {
		t.Fatal(err)
	}
	able := map[string]bool{"AES-CBC": true, "PUT KEY wrapping of aes-128": true, "PUT KEY wrapping of aes-256": true, "no key value leaves": true}
	for _, c := range tok.Capabilities() {
		switch {
		case able[c.Operation] != (c.Err == nil):
			t.Errorf("%s (%s): %v", c.Operation, c.Plan, c.Err)
		case c.Err != nil && (fault.CodeOf(c.Err) != fault.TokenUnable || !strings.Contains(c.Err.Error(), "CKR_")):
			t.Errorf("%s is refused without a reason: %v", c.Operation, c.Err)
		}
	}
	results, err := probe.Run(ctx, tok, probe.Standards)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Verdict == probe.Fail {
			t.Error(r)
		}
	}
	passed, _, skipped := probe.Count(results)
	t.Logf("%s: %d passed, %d skipped", tok.Description(), passed, skipped)
	if passed == 0 || skipped < 100 {
		t.Errorf("%d passed, %d skipped", passed, skipped)
	}
	tok.Close()
	if tok, err := hsm.Open(ctx, opencryptoki()); fault.CodeOf(err) != fault.TokenUnable {
		t.Errorf("it is opened to serve: %v, %v", tok, err)
	}
}
