package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestServeRefusesPlantedKeys: whoever has the PIN puts a key beside ours, with a
// program that gives it every use there is.
func TestServeRefusesPlantedKeys(t *testing.T) {
	s := newSite(t)
	s.stop()
	pin, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	s.must("", err)
	planted := filepath.Join(s.dir, "planted.pem")
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(s.dir, "softhsm", "softhsm2.conf"))
		out, err := cmd.CombinedOutput()
		s.must(string(out), err)
	}
	run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", planted)
	run("softhsm2-util", "--import", planted, "--token", devLabel, "--label", "planted", "--id", "A1", "--pin", string(pin))
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if err == nil || !strings.Contains(out, `"planted"`) || !strings.Contains(out, "decrypt and sign") {
		t.Errorf("a planted key: %v\n%s", err, out)
	}
}
