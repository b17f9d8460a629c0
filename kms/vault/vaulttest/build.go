// Package vaulttest runs real Vault servers for tests: Vault's own core, as
// kms/vault/vaultdev links it, set up by the commands of deploy/vault/README.md with the
// policies of deploy/vault.
//
// The server is built once per machine, into the user's cache directory, which takes
// minutes and the module proxy; `make test` does it beforehand. A test that cannot have it
// fails.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

// Binary returns the server's program, built if need be.
var Binary = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "kms", "vault", "vaultdev")
	sum, err := digest(dir)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "cardkms")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(cache, "vaultdev-"+sum)
	return path, build(dir, path)
})

// Root returns the directory of the module.
func Root() (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return filepath.Dir(string(bytes.TrimSpace(out))), nil
}

// digest names what a server is built from: its module, and the compiler.
func digest(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	files := os.DirFS(dir)
	err := fs.WalkDir(files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:12]), err
}

// build makes the program unless it is there. Packages are tested in processes of their
// own; the first builds, and the others wait for it.
func build(dir, path string) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	cmd := exec.CommandContext(context.Background(), "nice", "go", "build", "-trimpath", "-o", path+".part", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the Vault server for tests: %w: %s", err, out)
	}
	return os.Rename(path+".part", path)
}
