// Package faulty makes a PKCS#11 module that fails on purpose: it passes every call on to
// another module, and fails the functions that a test names, before or after the call, or
// keeps them from coming back.
//
// The module is C, because it must be a library that the adapter loads like any other. It
// is compiled when it is asked for, with the PKCS#11 headers of the binding.
package faulty

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	_ "embed"
)

//go:embed module/shim.c
var source []byte

// Functions are those that can fail, in the order of their numbers.
var Functions = []string{
	"C_Login", "C_OpenSession", "C_CloseSession", "C_GetSessionInfo", "C_GetTokenInfo",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue", "C_GenerateRandom",
	"C_GenerateKey", "C_DeriveKey", "C_DestroyObject", "C_WrapKey", "C_EncryptInit", "C_Encrypt",
	"C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign", "C_Initialize", "C_GetSlotList",
}

// When says whether the other module gets the call that fails.
type When int

// A caller that handles one and not the other loses or repeats something.
const (
	Before When = iota
	After
)

// Places of what the module reads and writes, as words of 8 bytes: see module/shim.c.
const (
	function = iota
	after
	code
	left
	hits
	hanging
	hangs
	calls
)

// Module is a module that can fail.
type Module struct {
	Path string // of the library
	told []byte // mapped
}

// Build compiles the module into a directory and has it pass calls on to another one.
// headers is the directory with the PKCS#11 headers.
func Build(ctx context.Context, dir, module, headers string) (*Module, error) {
	src, lib, control := filepath.Join(dir, "shim.c"), filepath.Join(dir, "libfaulty.so"), filepath.Join(dir, "control")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "gcc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-I", headers, "-o", lib, src, "-ldl").CombinedOutput() //nolint:gosec // a test's own paths
	if err != nil {
		return nil, fmt.Errorf("compiling the module: %w: %s", err, out)
	}
	f, err := os.OpenFile(control, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	const size = 4096
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	m := &Module{Path: lib}
	if m.told, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return nil, err
	}
	m.Heal()
	if err := os.Setenv("CARDKMS_FAULTY_MODULE", module); err != nil {
		return nil, err
	}
	return m, os.Setenv("CARDKMS_FAULTY_CONTROL", control)
}

// Headers returns where the binding keeps the PKCS#11 headers.
func Headers(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	return strings.TrimSpace(string(out)), err
}

func (m *Module) word(at int) []byte  { return m.told[8*at : 8*at+8] }
func (m *Module) set(at int, v int64) { binary.NativeEndian.PutUint64(m.word(at), uint64(v)) }
func (m *Module) get(at int) int64    { return int64(binary.NativeEndian.Uint64(m.word(at))) }

// Fail has the next n calls of a function return a code.
func (m *Module) Fail(number int, when When, ckr uint, n int) {
	m.Heal()
	m.set(after, int64(when))
	m.set(code, int64(ckr))
	m.set(left, int64(n))
	m.set(hits, 0)
	m.set(function, int64(number)) // last: now it counts
}

// Every is how many calls hang where all do.
const Every = 1 << 40

// Hang keeps the next n calls of a function from coming back.
func (m *Module) Hang(number, n int) {
	m.set(hangs, int64(n))
	m.set(hanging, int64(number)) // last: now it counts
}

// Heal has no call fail any more, and those that hang go on.
func (m *Module) Heal() {
	m.set(function, -1)
	m.set(hanging, -1)
}

// Hits returns how many calls failed since Fail.
func (m *Module) Hits() int { return int(m.get(hits)) }

// Calls returns how often a function was called.
func (m *Module) Calls(number int) int { return int(m.get(calls + number)) }
