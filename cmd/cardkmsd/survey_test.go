package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/kms/cardkey"
	"cardkms/kms/key"
	"cardkms/kms/kmstest"
)

// plant runs a program on the site's token, as whoever has the PIN can.
func (s *site) plant(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(s.dir, "softhsm", "softhsm2.conf"))
	out, err := cmd.CombinedOutput()
	s.must(string(out), err)
}

func (s *site) pin() string {
	s.t.Helper()
	pin, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	s.must("", err)
	return string(pin)
}

// TestServeRefusesPlantedKeys: whoever has the PIN puts a key beside ours, with a
// program that gives it every use there is.
func TestServeRefusesPlantedKeys(t *testing.T) {
	s := newSite(t)
	s.stop()
	planted := filepath.Join(s.dir, "planted.pem")
	s.plant("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", planted)
	s.plant("softhsm2-util", "--import", planted, "--token", devLabel, "--label", "planted", "--id", "A1", "--pin", s.pin())
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if err == nil || !strings.Contains(out, `"planted"`) || !strings.Contains(out, "decrypt and sign") {
		t.Errorf("a planted key: %v\n%s", err, out)
	}
}

// TestServeRefusesATwin: a second key under the name of a master, with a value that
// the attacker knows, is not taken for it.
func TestServeRefusesATwin(t *testing.T) {
	s := newSite(t)
	s.stop()
	label := cardkey.Root(key.Version{ID: key.ID{Issuer: "demo", Name: "isd", Version: 1}}, key.Master).Label
	known := filepath.Join(s.dir, "known.key")
	s.must("", os.WriteFile(known, make([]byte, 32), 0o600))
	s.plant("softhsm2-util", "--import", known, "--aes", "--token", devLabel, "--label", label, "--id", "A2", "--pin", s.pin())
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if err == nil || !strings.Contains(out, label) {
		t.Errorf("a twin: %v\n%s", err, out)
	}
}

// TestServeTriesThePINOnce: a wrong PIN seals the node, which names the field that it came
// from and not the PIN, and presents it once; the right one works afterwards.
func TestServeTriesThePINOnce(t *testing.T) {
	s := newSite(t)
	s.stop()
	right := s.pin()
	s.must("", os.WriteFile(filepath.Join(s.dir, "pin"), []byte("wrong-and-told-nobody"), 0o600))
	s.log = new(kmstest.Log)
	s.launch()
	s.until("it is sealed", s.answers("/readyz", http.StatusServiceUnavailable, `"code":"pin_refused"`))
	s.stop()
	out := s.log.String()
	if !strings.Contains(out, "token.pin") || strings.Contains(out, "told-nobody") || strings.Count(out, `"level":"ERROR"`) != 1 {
		t.Errorf("a wrong PIN:\n%s", out)
	}
	s.must("", os.WriteFile(filepath.Join(s.dir, "pin"), []byte(right), 0o600))
	s.serve()
}
