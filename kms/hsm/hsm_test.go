package hsm_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/softhsm/testtoken"
)

var ctx = context.Background()

func TestMain(m *testing.M) { testtoken.Main(m) }

// tokens runs f on every kind of token that the tests have.
func tokens(t *testing.T, f func(*testing.T, *hsm.Token)) {
	t.Run("softhsm", func(t *testing.T) { f(t, testtoken.SoftHSM(t)) })
	t.Run("nss", func(t *testing.T) { f(t, testtoken.NSS(t)) })
}

// childVariable marks a process that a test started to have the state of a
// PKCS#11 library for itself.
const childVariable = "CARDKMS_HSM_TEST_CHILD"

// inChild reports whether this process is the child of the running test. In the
// parent it runs the test again in a child process, with this environment, and
// fails when the child does.
func inChild(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command(os.Args[0], "-test.run="+pattern, "-test.v", "-test.timeout=5m")
	cmd.Env = append(append(os.Environ(), childVariable+"="+t.Name()), env...)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in the child process: %v\n%s", err, out)
		return false
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return false
}

// ownTokens runs f in a child process of its own for each kind of token, with
// the token open by this configuration.
func ownTokens(t *testing.T, change func(*hsm.Config), f func(*testing.T, *hsm.Token)) {
	for name, config := range map[string]func() (hsm.Config, error){
		"softhsm": testtoken.SoftHSMConfig,
		"nss":     func() (hsm.Config, error) { return testtoken.NSSConfig(filepath.Join(t.TempDir(), "nss")) },
	} {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			cfg, err := config()
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				change(&cfg)
			}
			f(t, openToken(t, cfg))
		})
	}
}

// softHSM returns how to open the SoftHSM2 token of this process, which then says nothing.
func softHSM(t *testing.T) hsm.Config {
	t.Helper()
	cfg, err := testtoken.SoftHSMConfig()
	must(t, err)
	cfg.Logger = quiet
	return cfg
}

func openToken(t *testing.T, cfg hsm.Config) *hsm.Token {
	t.Helper()
	tok, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tok.Close)
	return tok
}

// value is a key value of its own for each name.
func value(name string, a key.Algorithm) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:a.Size()]
}

var labels atomic.Int64

// unique is a label that no test of this process used before, not even the same
// test by -count: the tokens live as long as the process.
func unique(t testing.TB, name string) string {
	return fmt.Sprintf("%s/%s %d", t.Name(), name, labels.Add(1))
}

// importRoot makes a root of a known value in the token, and the same in the
// software oracle. Both references are one recipe.
func importRoot(t testing.TB, tok *hsm.Token, soft *derivetest.Token, name string, a key.Algorithm, c derive.Class) *derive.Key {
	t.Helper()
	label := unique(t, name)
	v := value(label, a)
	r, err := tok.Import(ctx, label, a, c, secret.New(append([]byte{}, v...)))
	if err != nil {
		t.Fatalf("importing %s: %v", label, err)
	}
	k := soft.Add(label, a, c, v)
	if r.KCV.Method != key.KCVCMAC && r.KCV != k.Root().KCV {
		t.Fatalf("%s has the check value %v, want %v", label, r.KCV, k.Root().KCV)
	}
	root := derive.FromRoot(r)
	if r.KCV == k.Root().KCV && root.ID() != k.ID() {
		t.Fatal("the oracle's key is another recipe")
	}
	return root
}

// cardKey is the key of one card by KDF3.
func cardKey(t testing.TB, master *derive.Key, card int, p diversify.Purpose, c derive.Class) *derive.Key {
	t.Helper()
	kdd := fmt.Appendf(nil, "%010d", card)
	k, err := diversify.Card(diversify.KDF3, master, kdd, diversify.Target{Purpose: p, Class: c, Algorithm: master.Algorithm()})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantCode(t testing.TB, what string, err error, want fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != want {
		t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

// TestCapabilities states what each token can do, and by which plan: a change
// here is a change of the token or of the probe.
func TestCapabilities(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		unable := map[string]string{"PUT KEY wrapping of aes-192": "softhsm", "PUT KEY wrapping of tdea-2key": "softhsm", "Ed25519 signature (audit log)": "nss",
			"exclusive or with a key (Visa's script keys)": "softhsm", "SCP11 key derivation": "softhsm"}
		name := strings.TrimPrefix(t.Name(), "TestCapabilities/")
		if tok.Native() != (name == "nss") {
			t.Errorf("the native plan is %t", tok.Native())
		}
		caps := tok.Capabilities()
		if len(caps) != 13 {
			t.Errorf("%d capabilities", len(caps))
		}
		for _, c := range caps {
			if want := unable[c.Operation] != name; (c.Err == nil) != want {
				t.Errorf("%s (%s): %v", c.Operation, c.Plan, c.Err)
			}
			if c.Err != nil && fault.CodeOf(c.Err) != fault.TokenUnable {
				t.Errorf("%s: %v", c.Operation, c.Err)
			}
		}
		if n := tok.LiveObjects(); n != 0 {
			t.Errorf("detection left %d objects", n)
		}
	})
}
