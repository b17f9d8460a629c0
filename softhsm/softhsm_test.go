package softhsm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/softhsm"
)

// TestUseRefusesForeign: a configuration outside the directory is somebody's
// token. Nothing is written, and the variable stays as it was.
func TestUseRefusesForeign(t *testing.T) {
	dir := t.TempDir()
	for _, foreign := range []string{
		"/etc/softhsm/softhsm2.conf",
		filepath.Join(dir, "..", "softhsm2.conf"),
		filepath.Join(dir, "softhsm2.conf", "x"),
		filepath.Join(dir, "tokens", "softhsm2.conf"),
		dir + "2/softhsm2.conf",
		"softhsm2.conf",
	} {
		t.Setenv(softhsm.ConfVariable, foreign)
		err := softhsm.Use(dir)
		if err == nil || !strings.Contains(err.Error(), softhsm.ConfVariable) {
			t.Errorf("%s: %v", foreign, err)
		}
		if got := os.Getenv(softhsm.ConfVariable); got != foreign {
			t.Errorf("the variable became %s", got)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: %v was written", foreign, left)
		}
	}
}

// TestUse makes a directory that only its owner can read, can be used again, and
// keeps a token that is there.
func TestUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	t.Setenv(softhsm.ConfVariable, "")
	if err := softhsm.Use(dir); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if got := os.Getenv(softhsm.ConfVariable); got != conf {
		t.Errorf("the variable is %s, want %s", got, conf)
	}
	text, err := os.ReadFile(conf)
	if err != nil || !strings.Contains(string(text), "directories.tokendir = "+filepath.Join(dir, "tokens")) {
		t.Errorf("the configuration is %q (%v)", text, err)
	}
	for path, want := range map[string]os.FileMode{conf: 0o600, filepath.Join(dir, "tokens"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, info.Mode().Perm(), err, want)
		}
	}
	kept := filepath.Join(dir, "tokens", "a-token")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := softhsm.Use(dir); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the token is gone: %v", err)
	}
}

// TestModule: SoftHSM2 is part of the test machine, and the error for a machine
// without it says how to get it.
func TestModule(t *testing.T) {
	m, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	if !softhsm.Is(m) {
		t.Errorf("%s is not recognised as SoftHSM2", m)
	}
	if !strings.Contains(softhsm.ErrMissing.Error(), "apt-get install softhsm2") {
		t.Errorf("the hint is missing: %v", softhsm.ErrMissing)
	}
}

// TestIs: a production server refuses SoftHSM2 under whatever name it is linked.
func TestIs(t *testing.T) {
	m, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "vendor-hsm.so")
	if err := os.Symlink(m, link); err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]bool{
		m:                           true,
		link:                        true,
		"/opt/SoftHSMv2/SoftHSM.so": true,
		"/opt/softhsm/vendor.so":    false, // the folder says nothing
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so": false,
		"": false,
	} {
		if got := softhsm.Is(module); got != want {
			t.Errorf("Is(%q) = %t", module, got)
		}
	}
}
