package vault_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"cardkms/kms/kmstest"
	"cardkms/kms/secret"
	"cardkms/kms/vault"
	"cardkms/kms/vault/vaulttest"

	"go.uber.org/goleak"
)

// TestMain sees that Close ends what Open began. The proxy's own goroutines may stay.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}

const pin = "48151623"

// world is a Vault that is set up as deploy/vault/README.md says, and a node's client.
type world struct {
	*vaulttest.Server
	t      *testing.T
	cfg    vault.Config
	client *vault.Client
	log    *kmstest.Log
}

var hsm = vault.Ref{Mount: "kv", Path: "cardkms/hsm", Field: "pin"}

func newWorld(t *testing.T, sections ...string) *world {
	t.Helper()
	w := &world{Server: vaulttest.New(t), t: t, log: new(kmstest.Log)}
	w.Setup(map[string]string{
		"AUDIT_FILE": w.AuditFile(), "PIN_FILE": w.File("pin.json", `{"pin": "`+pin+`"}`), "DOMAIN": "localhost",
	}, append([]string{"Login"}, sections...)...)
	w.cfg = vault.Config{Address: w.URL(), CACert: w.CA(), Auth: w.appRole(w.SecretID()), Logger: slog.New(slog.NewTextHandler(w.log, nil))}
	return w
}

// appRole logs in with a wrapping token.
func (w *world) appRole(wrapped string) *vault.AppRole {
	return &vault.AppRole{
		Mount: "approle", Role: "cardkms", RoleID: w.RoleID(),
		Wrapped: func() (secret.Bytes, error) { return secret.New([]byte(wrapped)), nil },
	}
}

// role changes the role of the tokens.
func (w *world) role(data map[string]any) { w.t.Helper(); w.Write("auth/approle/role/cardkms", data) }

func (w *world) open() *vault.Client {
	w.t.Helper()
	c, err := vault.Open(context.Background(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.client = c
	w.t.Cleanup(func() { w.close() })
	return c
}

func (w *world) close() {
	if w.client != nil {
		_ = w.client.Close(context.Background())
		w.client = nil
	}
}

// reads checks that the PIN can be read.
func (w *world) reads() {
	w.t.Helper()
	if err := w.read(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read() error {
	value, version, err := w.client.Read(context.Background(), hsm)
	if err == nil && (string(value.Reveal()) != pin || version != 1) {
		w.t.Errorf("read %q, version %d", value.Reveal(), version)
	}
	return err
}

// logins counts the logins that the audit device recorded.
func (w *world) logins() int {
	w.t.Helper()
	b, err := os.ReadFile(w.AuditFile())
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, line := range strings.Split(string(b), "\n") {
		if strings.Contains(line, `"type":"response"`) && strings.Contains(line, `"path":"auth/approle/login"`) {
			n++
		}
	}
	return n
}

// until waits until something holds.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	kmstest.Until(w.t, what, holds, w.log.String)
}
