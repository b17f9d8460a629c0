// Package softhsm is what is true of SoftHSM2 and of no other token: where its
// module is, how a token directory is made, and where it falls short of a
// hardware security module. It is not the PKCS#11 adapter; that is kms/hsm, which
// runs unchanged against SoftHSM2 and against hardware.
//
// SoftHSM2 reads one configuration file, named by the environment variable
// SOFTHSM2_CONF, at every C_Initialize. Use makes such a file and a token
// directory inside a directory of the caller's and points this process at it. It
// refuses to when the variable already points elsewhere, so that a test or a demo
// can never touch a token that somebody uses.
//
// Known gaps, each shown by a test of this package or of kms/hsm: an old handle
// names another key after C_Finalize; a wrong PIN never locks; whoever has the
// PIN can derive a readable key from a never-extractable one; AES-192 keys cannot
// be wrapped with CKM_AES_CBC; single DES is listed and fails; a token object
// cannot be made reliably while another session searches; destroyed session
// objects leave a few hundred bytes behind; C_Login rewrites token.object in
// place, so a power cut then loses the token.
package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Manufacturer is what C_GetInfo says of the library.
const Manufacturer = "SoftHSM"

// ConfVariable names SoftHSM2's configuration file.
const ConfVariable = "SOFTHSM2_CONF"

var places = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// ErrMissing says how to get SoftHSM2.
var ErrMissing = errors.New("softhsm: SoftHSM2 is not installed; on Debian: apt-get install softhsm2")

// Module returns the path of the PKCS#11 module, or ErrMissing.
func Module() (string, error) {
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", ErrMissing
}

// Is reports whether a module path is SoftHSM2's. Production refuses it.
func Is(module string) bool {
	if real, err := filepath.EvalSymlinks(module); err == nil {
		module = real
	}
	return strings.Contains(strings.ToLower(filepath.Base(module)), "softhsm")
}

// Made reports whether what a library and a token say of themselves names
// SoftHSM2, also behind a proxy module or under another file name.
func Made(manufacturer string) bool {
	return strings.Contains(strings.ToLower(manufacturer), strings.ToLower(Manufacturer))
}

// Use points this process at the tokens in dir, which it makes with a
// configuration file if it is empty. It refuses when SOFTHSM2_CONF points to a
// file outside dir.
func Use(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("softhsm: %w", err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if have := os.Getenv(ConfVariable); have != "" && filepath.Clean(have) != conf {
		return fmt.Errorf("softhsm: %s points to %s, outside %s; unset it", ConfVariable, have, dir)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return fmt.Errorf("softhsm: making the token directory: %w", err)
	}
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("softhsm: writing the configuration: %w", err)
	}
	return os.Setenv(ConfVariable, conf)
}
