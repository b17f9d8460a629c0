// Package testtoken gives tests real tokens to work on: a throw-away SoftHSM2
// token and a throw-away NSS softokn database, each opened once per process
// because a PKCS#11 library's state is global.
//
// A package that uses it runs its tests by Main, which removes the tokens:
//
//	func TestMain(m *testing.M) { testtoken.Main(m) }
//
// A missing module fails the test; it never skips. `make setup` installs both.
package testtoken

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"cardkms/kms/hsm"
	"cardkms/kms/secret"
	"cardkms/softhsm"
)

const (
	label = "cardkms-test"
	pin   = "648219"
	soPIN = "7362514890"
)

var dir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "cardkms-token-") })

// Main runs the tests of a package and removes its tokens.
func Main(m *testing.M) {
	code := m.Run()
	for _, t := range opened {
		t.Close()
	}
	if d, err := dir(); err == nil {
		_ = os.RemoveAll(d)
	}
	os.Exit(code)
}

var opened []*hsm.Token

// SoftHSM returns the process's SoftHSM2 token.
func SoftHSM(tb testing.TB) *hsm.Token {
	tb.Helper()
	t, err := openSoftHSM()
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// SoftHSMConfig formats the process's SoftHSM2 token, once, and returns how to
// open it, for tests that open and close it themselves.
var SoftHSMConfig = sync.OnceValues(func() (hsm.Config, error) {
	d, err := dir()
	if err != nil {
		return hsm.Config{}, err
	}
	module, err := softhsm.Module()
	if err != nil {
		return hsm.Config{}, err
	}
	if err := os.Unsetenv(softhsm.ConfVariable); err != nil {
		return hsm.Config{}, err
	}
	if err := softhsm.Use(filepath.Join(d, "softhsm")); err != nil {
		return hsm.Config{}, err
	}
	err = hsm.Format(module, label, secret.New([]byte(soPIN)), secret.New([]byte(pin)))
	return hsm.Config{Module: module, Label: label, PIN: secret.New([]byte(pin))}, err
})

// FurtherSoftHSM formats another token in the directory of SoftHSMConfig and returns how to
// open it and where SoftHSM2 keeps it. No token of SoftHSM2 may be open.
func FurtherSoftHSM(label string) (cfg hsm.Config, kept string, err error) {
	if cfg, err = SoftHSMConfig(); err != nil {
		return cfg, "", err
	}
	tokens := filepath.Join(filepath.Dir(os.Getenv(softhsm.ConfVariable)), "tokens")
	before, err := os.ReadDir(tokens)
	if err != nil {
		return cfg, "", err
	}
	if err := hsm.Format(cfg.Module, label, secret.New([]byte(soPIN)), secret.New([]byte(pin))); err != nil {
		return cfg, "", err
	}
	cfg.Label = label
	after, err := os.ReadDir(tokens)
	for _, d := range after {
		if !slices.ContainsFunc(before, func(o os.DirEntry) bool { return o.Name() == d.Name() }) {
			kept = filepath.Join(tokens, d.Name())
		}
	}
	return cfg, kept, err
}

var openSoftHSM = sync.OnceValues(func() (*hsm.Token, error) {
	cfg, err := SoftHSMConfig()
	if err != nil {
		return nil, err
	}
	return open(cfg)
})

func open(cfg hsm.Config) (*hsm.Token, error) {
	t, err := hsm.Open(context.Background(), cfg)
	if err == nil {
		opened = append(opened, t)
	}
	return t, err
}

// NSS returns the process's NSS softokn token.
func NSS(tb testing.TB) *hsm.Token {
	tb.Helper()
	t, err := openNSS()
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// nssPlaces are where Debian's libnss3 puts softokn.
var nssPlaces = []string{"/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so"}

var openNSS = sync.OnceValues(func() (*hsm.Token, error) {
	d, err := dir()
	if err != nil {
		return nil, err
	}
	cfg, err := NSSConfig(filepath.Join(d, "nss"))
	if err != nil {
		return nil, err
	}
	return open(cfg)
})

// NSSConfig makes an NSS database in db and returns how to open it.
func NSSConfig(db string) (hsm.Config, error) {
	if err := os.MkdirAll(db, 0o700); err != nil {
		return hsm.Config{}, err
	}
	password := filepath.Join(db, "password")
	if err := os.WriteFile(password, []byte(pin), 0o600); err != nil {
		return hsm.Config{}, err
	}
	if out, err := exec.Command("certutil", "-N", "-d", "sql:"+db, "-f", password).CombinedOutput(); err != nil {
		return hsm.Config{}, fmt.Errorf("testtoken: making an NSS database (on Debian: apt-get install libnss3-tools): %w: %s", err, out)
	}
	for _, p := range nssPlaces {
		if _, err := os.Stat(p); err == nil {
			return hsm.Config{
				Module: p, Label: "NSS Certificate DB", PIN: secret.New([]byte(pin)),
				InitArgs: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", db),
			}, nil
		}
	}
	return hsm.Config{}, fmt.Errorf("testtoken: NSS softokn is not installed; on Debian: apt-get install libnss3")
}
