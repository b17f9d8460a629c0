package vault_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/kms/secret"
	"cardkms/kms/vault"
	"cardkms/kms/vault/vaulttest"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	wrapped := w.SecretID()
	w.cfg.Auth = w.appRole(wrapped)
	w.open()
	w.reads()
	if w.client.Failing() != nil || w.client.LastSuccess().IsZero() || w.client.Expires().IsZero() {
		t.Errorf("%v, %v, %v", w.client.Failing(), w.client.LastSuccess(), w.client.Expires())
	}
	for name, ref := range map[string]vault.Ref{
		"field": {Mount: "kv", Path: "cardkms/hsm", Field: "puk"}, "version": {Mount: "kv", Path: "cardkms/witness", Field: "checkpoint"},
	} {
		if _, _, err := w.client.Read(context.Background(), ref); !errors.Is(err, vault.ErrNotFound) {
			t.Errorf("a missing %s: %v", name, err)
		}
	}
	if len(w.Accessors()) != 1 {
		t.Errorf("tokens: %v", w.Accessors())
	}
	w.close()
	if got := w.Accessors(); len(got) != 0 {
		t.Errorf("a token outlives its client: %v", got)
	}
	if s := w.log.String(); strings.Contains(s, pin) || strings.Contains(s, wrapped) || strings.Contains(s, "hvs.") {
		t.Errorf("the log holds a secret: %s", s)
	}
}

// TestSpent: whoever opens the secret id before us is found out, and so is one who
// delivers another that he made himself; that one is not opened.
func TestSpent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stolen := w.SecretID()
	w.Unwrap(stolen)
	forged := w.Wrapped("sys/wrapping/wrap", map[string]any{"secret_id": "mine"})
	for name, token := range map[string]string{"opened by a thief": stolen, "another path's": forged, "nonsense": "hvs.nothing"} {
		w.cfg.Auth = w.appRole(token)
		_, err := vault.Open(context.Background(), w.cfg)
		if !errors.Is(err, vault.ErrSpent) || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.cfg.Auth = w.appRole("")
	if _, err := vault.Open(context.Background(), w.cfg); err == nil || errors.Is(err, vault.ErrSpent) {
		t.Errorf("not delivered yet: %v", err)
	}
	w.Unwrap(forged)
	if n := w.logins(); n != 0 {
		t.Errorf("%d logins", n)
	}
}

// TestUnsealedLater: a Vault that is sealed or away at first spends nothing.
func TestUnsealedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	refused := func(when string) {
		t.Helper()
		if _, err := vault.Open(context.Background(), w.cfg); err == nil || errors.Is(err, vault.ErrSpent) {
			t.Errorf("%s: %v", when, err)
		}
	}
	w.Seal()
	refused("sealed")
	w.Kill()
	refused("away")
	w.Start()
	w.open()
	w.reads()
}

// TestStrangers: neither another server in Vault's place nor the environment gets a secret.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	other := vaulttest.New(t)
	own := w.cfg.CACert
	w.cfg.CACert = other.CA()
	var unknown x509.UnknownAuthorityError
	if _, err := vault.Open(context.Background(), w.cfg); !errors.As(err, &unknown) {
		t.Errorf("with another authority: %v", err)
	}
	w.cfg.CACert = own
	for _, name := range []string{"VAULT_SKIP_VERIFY", "VAULT_TOKEN", "VAULT_PROXY_ADDR", "VAULT_ADDR"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "1")
			if _, err := vault.Open(context.Background(), w.cfg); !errors.Is(err, vault.ErrConfig) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v", err)
			}
		})
	}
	for _, address := range []string{"http://127.0.0.1:8200", "127.0.0.1:8200", "https://user:pass@h", "https://h/path", "https://h?x=1", ""} {
		if vault.CheckAddress(address) == nil {
			t.Errorf("%q passes", address)
		}
	}
	w.open() // nothing was spent
}

func TestCertificateLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN")
	ca := w.CA() // its own authority, and its own key: a certificate as good as any
	w.Setup(map[string]string{"NODES_CA": ca}, "Client certificate")
	w.cfg.Auth = &vault.Certificate{Mount: "cert", Role: "cardkms", Cert: ca, Key: filepath.Join(filepath.Dir(ca), "key.pem")}
	w.open()
	w.reads()
	w.cfg.Auth = &vault.Certificate{Mount: "cert", Role: "cardkms", Cert: ca, Key: ca}
	if _, err := vault.Open(context.Background(), w.cfg); err == nil {
		t.Error("logged in without a key")
	}
}

// TestKubernetesLogin: Vault's own method asks a stand-in for the API server of
// Kubernetes who the bearer of a token is.
func TestKubernetesLogin(t *testing.T) {
	jwt := func(audience string) string {
		claims, err := json.Marshal(map[string]any{
			"iss": "kubernetes/serviceaccount", "aud": []string{audience}, "kubernetes.io/serviceaccount/namespace": "cardkms",
			"kubernetes.io/serviceaccount/service-account.name": "cardkms", "kubernetes.io/serviceaccount/service-account.uid": "1",
		})
		if err != nil {
			t.Fatal(err)
		}
		b := base64.RawURLEncoding
		return b.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + b.EncodeToString(claims) + "." + b.EncodeToString([]byte("signature"))
	}
	good, another := jwt("vault"), jwt("https://kubernetes.default.svc")
	t.Parallel()
	kube := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var review struct{ Spec struct{ Token string } }
		_ = json.NewDecoder(r.Body).Decode(&review)
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
			"status": map[string]any{"authenticated": review.Spec.Token == good || review.Spec.Token == another, "audiences": []string{"vault"}, "user": map[string]any{"username": "system:serviceaccount:cardkms:cardkms", "uid": "1"}},
		})
	}))
	defer kube.Close()
	w := newWorld(t, "PIN")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kube.Certificate().Raw})
	w.Setup(map[string]string{
		"KUBERNETES_HOST": kube.URL, "KUBERNETES_CA": w.File("kube.pem", string(authority)), "REVIEWER_JWT": w.File("reviewer", good),
	}, "Kubernetes")
	w.cfg.Auth = &vault.Kubernetes{Mount: "kubernetes", Role: "cardkms", Token: w.File("jwt", good+"\n")}
	w.open()
	w.reads()
	for name, token := range map[string]string{"that Kubernetes does not know": good + "x", "for Kubernetes itself": another} {
		w.cfg.Auth = &vault.Kubernetes{Mount: "kubernetes", Role: "cardkms", Token: w.File("jwt", token)}
		if _, err := vault.Open(context.Background(), w.cfg); err == nil || strings.Contains(err.Error(), token[:40]) {
			t.Errorf("with a token %s: %v", name, err)
		}
	}
}

func TestParseRef(t *testing.T) {
	for in, want := range map[string]vault.Ref{
		"kv/cardkms/hsm#pin": {Mount: "kv", Path: "cardkms/hsm", Field: "pin"}, "kv/a#b": {Mount: "kv", Path: "a", Field: "b"},
		"kv": {}, "kv/a": {}, "kv#b": {}, "/a#b": {}, "kv/../x#b": {}, "kv/a?version=1#b": {}, "": {}, "kv//a#b": {},
	} {
		if got, err := vault.ParseRef(in); got != want || (err == nil) != (want != vault.Ref{}) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

// TestLostSecretID: the file is asked for again after a failure before anything was spent,
// and never after the opening.
func TestLostSecretID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, asked := w.SecretID(), 0
	r := w.appRole(token)
	r.Wrapped = func() (secret.Bytes, error) {
		if asked++; asked == 1 {
			return secret.Bytes{}, errors.New("not there yet")
		}
		return secret.New([]byte(token)), nil
	}
	w.cfg.Auth = r
	if _, err := vault.Open(context.Background(), w.cfg); err == nil {
		t.Fatal("logged in without a secret id")
	}
	w.open()
	w.Revoke()
	w.until("a second login", func() bool { return w.client.Failing() == nil && w.logins() == 2 })
	if asked != 2 {
		t.Errorf("the wrapped secret id was asked for %d times", asked)
	}
}
