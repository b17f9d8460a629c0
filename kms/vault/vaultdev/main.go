// Command vaultdev is a Vault server for tests: Vault's own core, from its published
// module, with the storage, barrier, seal, policies, tokens, leases and back ends that
// the tests of kms/vault use, and nothing else. It is a module of its own so that nothing
// of it reaches the dependencies of the product.
//
// vaultdev DIR keeps its storage in DIR, serves TLS with DIR/cert.pem and DIR/key.pem on a
// free port of the loopback interface, or on the one that it had, and prints one line of
// JSON when it serves. It ends with its standard input, so that no server outlives a test.
//
// It is no server for anything else: the unseal key and a root token lie in a file beside
// the data that they open.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vaultdev:", err)
		os.Exit(1)
	}
}

// state is what a server tells whoever started it, and keeps for its next start.
type state struct {
	Address   string `json:"address"` // host:port
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"` // in hexadecimal digits
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: vaultdev DIR")
	}
	dir := args[0]
	core, err := newCore(filepath.Join(dir, "storage"))
	if err != nil {
		return err
	}
	defer func() { _ = core.Shutdown() }()
	path := filepath.Join(dir, "state.json")
	s := state{Address: "127.0.0.1:0"}
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	} else if err := initialise(ctx, core, &s); err != nil {
		return fmt.Errorf("initialising: %w", err)
	}
	l, err := listen(dir, s.Address)
	if err != nil {
		return err
	}
	s.Address = l.Addr().String()
	if err := unseal(core, s.UnsealKey); err != nil {
		return err
	}
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, line, 0o600); err != nil {
		return err
	}
	h := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Close()
	}()
	fmt.Println(string(line))
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newCore returns a core over files.
func newCore(dir string) (*vault.Core, error) {
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	storage, err := file.NewFileBackend(map[string]string{"path": dir}, logger)
	if err != nil {
		return nil, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, StorageType: "file", DisableMlock: true, Logger: logger,
		BuiltinRegistry: registry{}, LogicalBackends: secretEngines, CredentialBackends: authMethods, AuditBackends: auditDevices,
		DefaultLeaseTTL: time.Hour, MaxLeaseTTL: 24 * time.Hour,
	})
	if err != nil {
		return nil, err
	}
	completeAll(core)
	return core, nil
}

// initialise makes the barrier, with one key that opens it.
func initialise(ctx context.Context, core *vault.Core, s *state) error {
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, StoredShares: 1}
	made, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: &vault.SealConfig{}})
	if err != nil {
		return err
	}
	s.RootToken, s.UnsealKey = made.RootToken, hex.EncodeToString(made.SecretShares[0])
	return nil
}

func unseal(core *vault.Core, key string) error {
	b, err := hex.DecodeString(key)
	if err != nil {
		return err
	}
	if open, err := core.Unseal(b); err != nil || !open {
		return fmt.Errorf("unsealing: %t, %w", open, err)
	}
	return nil
}

// listen serves TLS; a client may show a certificate, which the method "cert" judges.
func listen(dir, address string) (net.Listener, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	})
}
