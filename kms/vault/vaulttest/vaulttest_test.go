package vaulttest

import (
	"os"
	"strings"
	"testing"
)

// TestBuild builds the server, which `make test` has done before the other tests, because
// it takes minutes on a machine that never did.
func TestBuild(t *testing.T) {
	if _, err := Binary(); err != nil {
		t.Fatal(err)
	}
}

func TestServerKeepsWhatItHas(t *testing.T) {
	s := New(t)
	const secret = "no hexadecimal digits" // as the MACs in the audit file have by chance
	pin := s.File("pin.json", `{"pin": "`+secret+`"}`)
	s.Setup(map[string]string{"AUDIT_FILE": s.AuditFile(), "PIN_FILE": pin, "DOMAIN": "localhost"}, "Login", "PIN", "Certificate", "Witness")
	before := s.Address()
	s.Kill()
	s.Start()
	data, _ := s.Read("kv/data/cardkms/hsm")["data"].(map[string]any)
	if s.Address() != before || data["pin"] != secret {
		t.Errorf("after a restart: %s instead of %s, %v", s.Address(), before, data)
	}
	log, err := os.ReadFile(s.AuditFile())
	if err != nil || !strings.Contains(string(log), "kv/data/cardkms/hsm") || strings.Contains(string(log), secret) {
		t.Errorf("the audit file: %v\n%s", err, log)
	}
}

func TestWords(t *testing.T) {
	got := words(`vault write a/b  x="c d" y=1`)
	if strings.Join(got, "|") != "vault|write|a/b|x=c d|y=1" {
		t.Errorf("%q", got)
	}
}
