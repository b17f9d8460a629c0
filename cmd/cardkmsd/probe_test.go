package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const vectors = "../../kms/probe/testdata/"

// lastLine returns the closing line of a report.
func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

func TestProbe(t *testing.T) {
	s := &site{t: t}
	closing := regexp.MustCompile(`^\d+ passed, 0 failed, \d+ skipped$`)
	for name, args := range map[string][]string{
		"built in":           nil,
		"one file":           {"--vectors", vectors + "scp03.json"},
		"two after the flag": {"--vectors", vectors + "scp03.json", vectors + "diversification.json"},
		"two flags":          {"--vectors", vectors + "scp02.json", "--vectors", vectors + "recorded_scp03_openscp.json"},
		"a profile":          {"--profile", "../../deploy/profiles/template.yaml", "--profile", "../../deploy/profiles/scp02.yaml"},
		"with SoftHSM named": {"--module", "/usr/lib/softhsm/libsofthsm2.so", "--vectors", vectors + "diversification.json"},
	} {
		out := s.must(s.cardkmsd("", append([]string{"probe"}, args...)...))
		if !closing.MatchString(lastLine(out)) || strings.HasPrefix(lastLine(out), "0 passed") && name != "two flags" {
			t.Errorf("%s: the last line is %q", name, lastLine(out))
		}
		if !strings.Contains(out, "AES-CMAC key derivation") {
			t.Errorf("%s: no capabilities in the report", name)
		}
	}
}

func TestProbeFails(t *testing.T) {
	s := &site{t: t}
	b, err := os.ReadFile(vectors + "diversification.json")
	s.must("", err)
	wrong := filepath.Join(t.TempDir(), "wrong.json")
	s.must("", os.WriteFile(wrong, []byte(strings.Replace(string(b), "D36C18495F9B21D5D880D5E05A00CA4B", "D36C18495F9B21D5D880D5E05A00CA4C", 1)), 0o600))
	out, err := s.cardkmsd("", "probe", "--vectors", wrong)
	if err == nil || !strings.Contains(out, "FAIL kdf3-aes128-0") || !strings.Contains(lastLine(out), ", 1 failed,") {
		t.Errorf("a wrong answer: %v\n%s", err, out)
	}
	b, err = os.ReadFile("../../deploy/profiles/template.yaml")
	s.must("", err)
	s.must("", os.WriteFile(wrong, []byte(strings.Replace(string(b), "0C790A", "0C790B", 1)), 0o600))
	out, err = s.cardkmsd("", "probe", "--profile", wrong)
	if err == nil || !strings.Contains(out, "FAIL profile/template") || !strings.Contains(out, "card-keys") || strings.Contains(out, "0C790A") {
		t.Errorf("a wrong answer of a profile: %v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
	}{
		"no such profile":       {[]string{"--profile", "nowhere.yaml"}, exitUsage},
		"no profile":            {[]string{"--profile", "config.go"}, exitUsage},
		"no such file":          {[]string{"--vectors", "nowhere.json"}, exitUsage},
		"no vectors":            {[]string{"--vectors", "config.go"}, exitFailure},
		"a module without PIN":  {[]string{"--module", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"}, exitUsage},
		"SoftHSM without label": {[]string{"--module", "/usr/lib/softhsm/libsofthsm2.so", "--pin", "env:HOME"}, exitUsage},
		"no such module":        {[]string{"--module", "/nowhere.so", "--label", "x", "--pin", "env:HOME"}, exitFailure},
	} {
		out, err := s.cardkmsd("", append([]string{"probe"}, c.args...)...)
		if exitStatus(err) != c.status {
			t.Errorf("%s: %v, want %d:\n%s", name, err, c.status, out)
		}
		if c.status == exitUsage && strings.Contains(out, "AES-CMAC key derivation") {
			t.Errorf("%s: a token was probed before:\n%s", name, out)
		}
	}
}
