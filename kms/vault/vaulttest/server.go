package vaulttest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Server is a Vault. It is not safe for concurrent use.
type Server struct {
	t       testing.TB
	bin     string
	dir     string
	process *exec.Cmd
	stdin   io.Closer
	state   struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
		UnsealKey string `json:"unseal_key"`
	}
	root *api.Client
}

// New makes a Vault for a test and starts it.
func New(t testing.TB) *Server {
	t.Helper()
	bin, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, bin: bin, dir: t.TempDir()}
	s.certificate()
	s.Start()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the Vault server says:\n%s", s.log())
		}
	})
	return s
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server again after Kill, with what it kept, at the same address.
func (s *Server) Start() {
	s.t.Helper()
	s.process = exec.CommandContext(context.Background(), s.bin, s.dir)
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	s.must(err)
	defer func() { _ = log.Close() }()
	s.process.Stderr = log
	s.stdin, err = s.process.StdinPipe()
	s.must(err)
	out, err := s.process.StdoutPipe()
	s.must(err)
	s.must(s.process.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		s.t.Fatalf("the Vault server did not start: %v\n%s", err, s.log())
	}
	s.must(json.Unmarshal(line, &s.state))
	s.root = s.as(s.state.RootToken)
}

// Kill kills the server.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	_ = s.stdin.Close()
	s.process = nil
}

// Hang stops the server's process in its tracks; Resume has it go on.
func (s *Server) Hang() { s.must(s.process.Process.Signal(syscall.SIGSTOP)) }

// Resume undoes Hang.
func (s *Server) Resume() { s.must(s.process.Process.Signal(syscall.SIGCONT)) }

// Seal seals the server, as an operator does who suspects something.
func (s *Server) Seal() { s.t.Helper(); s.must(s.root.Sys().Seal()) }

// Unseal undoes Seal.
func (s *Server) Unseal() {
	s.t.Helper()
	_, err := s.root.Sys().Unseal(s.state.UnsealKey)
	s.must(err)
}

// Address returns host and port; URL the address that a client is given.
func (s *Server) Address() string { return s.state.Address }

// URL returns the address that a client is given.
func (s *Server) URL() string { return "https://" + s.state.Address }

// CA returns the file of the authority that vouches for the server.
func (s *Server) CA() string { return filepath.Join(s.dir, "cert.pem") }

// AuditFile returns the file of the audit device.
func (s *Server) AuditFile() string { return filepath.Join(s.dir, "audit.log") }

// Pid returns the server's process, for whoever measures it.
func (s *Server) Pid() int { return s.process.Process.Pid }

// Root returns a client that may do everything, and may be shared by goroutines.
func (s *Server) Root() *api.Client { return s.root }

// as returns a client with a token.
func (s *Server) as(token string) *api.Client {
	s.t.Helper()
	cfg := api.DefaultConfig()
	cfg.Address = s.URL()
	s.must(cfg.ConfigureTLS(&api.TLSConfig{CACert: s.CA()}))
	c, err := api.NewClient(cfg)
	s.must(err)
	c.SetToken(token)
	return c
}

// Write writes as the administrator and returns the data of the answer.
func (s *Server) Write(path string, data map[string]any) map[string]any {
	s.t.Helper()
	got, err := s.root.Logical().Write(path, data)
	s.must(err)
	if got == nil {
		return nil
	}
	return got.Data
}

// Read reads as the administrator.
func (s *Server) Read(path string) map[string]any {
	s.t.Helper()
	got, err := s.root.Logical().Read(path)
	s.must(err)
	if got == nil {
		s.t.Fatalf("Vault has no %s", path)
	}
	return got.Data
}

// List lists as the administrator.
func (s *Server) List(path string) []any {
	s.t.Helper()
	got, err := s.root.Logical().List(path)
	s.must(err)
	if got == nil {
		return nil
	}
	keys, _ := got.Data["keys"].([]any)
	return keys
}

// Wrapped writes as the administrator and returns the wrapping token of the answer.
func (s *Server) Wrapped(path string, data map[string]any) string {
	s.t.Helper()
	got, err := s.wrapping("5m").Logical().Write(path, data)
	s.must(err)
	return got.WrapInfo.Token
}

// wrapping returns a client that may do everything and has answers wrapped for so long;
// an empty ttl is not at all.
func (s *Server) wrapping(ttl string) *api.Client {
	if ttl == "" {
		return s.root
	}
	c := s.as(s.state.RootToken)
	c.SetWrappingLookupFunc(func(string, string) string { return ttl })
	return c
}

// Unwrap opens a wrapping token, as a thief would.
func (s *Server) Unwrap(token string) {
	s.t.Helper()
	_, err := s.as("").Logical().Unwrap(token)
	s.must(err)
}

// SecretID returns a wrapping token with a new secret id of the role cardkms, by the
// page's commands.
func (s *Server) SecretID() string { s.t.Helper(); return s.login()[1] }

// RoleID returns the role id of the role cardkms, by the page's commands.
func (s *Server) RoleID() string { s.t.Helper(); return s.login()[0] }

func (s *Server) login() []string {
	s.t.Helper()
	printed := s.Setup(nil, "Secret id")
	if len(printed) != 2 {
		s.t.Fatalf("the commands for a secret id print %d values", len(printed))
	}
	return printed
}

// Accessors returns the accessors of the living tokens that logins gave.
func (s *Server) Accessors() (out []string) {
	s.t.Helper()
	for _, a := range s.List("auth/token/accessors") {
		accessor, _ := a.(string)
		got, err := s.root.Logical().Write("auth/token/lookup-accessor", map[string]any{"accessor": accessor})
		if err != nil {
			continue // it ended meanwhile
		}
		if path, _ := got.Data["path"].(string); strings.HasSuffix(path, "/login") {
			out = append(out, accessor)
		}
	}
	return out
}

// Revoke revokes the living tokens that logins gave.
func (s *Server) Revoke() {
	s.t.Helper()
	for _, a := range s.Accessors() {
		s.Write("auth/token/revoke-accessor", map[string]any{"accessor": a})
	}
}

// AuditHash returns the form in which a value stands in the audit device's file.
func (s *Server) AuditHash(value string) string {
	s.t.Helper()
	h, err := s.root.Sys().AuditHash("file", value)
	s.must(err)
	return h
}

// certificate makes a certificate for 127.0.0.1 that is its own authority, and as good for
// a node.
func (s *Server) certificate() {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	serial := make([]byte, 8)
	_, _ = rand.Read(serial)
	n, _ := new(big.Int).SetString(hex.EncodeToString(serial), 16)
	template := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: "vault"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/node/n1"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	s.must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	s.must(os.WriteFile(s.CA(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	s.must(os.WriteFile(filepath.Join(s.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

// File writes a file beside the server's and returns its path.
func (s *Server) File(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.must(os.WriteFile(path, []byte(content), 0o600))
	return path
}

// log returns what the server printed.
func (s *Server) log() []byte {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	s.must(err)
	return b
}
