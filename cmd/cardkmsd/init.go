package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/derive"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/softhsm"
)

// Names of a development set-up.
const (
	devIssuer   = "demo"
	devDomain   = "spiffe://cardkms.dev"
	devOrigin   = "cardkms.dev/audit"
	devLabel    = "cardkms-dev"
	logLabel    = "cardkms-log"
	pseudoLabel = "cardkms-pseudonym"
)

func initCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a development set-up: SoftHSM2 token, service keys, CA, certificates, configuration",
		Long: `Make a development set-up in DIR, which must not exist yet:

  cardkms.yaml   the configuration (development: true)
  softhsm/       a SoftHSM2 token with the log's signing key and the pseudonym key
  pin            the token's User PIN
  tls/           a CA, the server's certificate and one certificate per role
  release/       an Ed25519 key pair that signs images

The CA's key is not kept. For a production token, write a configuration and
make the two service keys in the token's own ceremony.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := initDev(cmd.Context(), args[0], listen); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Development set-up made in %s\nnext: cardkmsd keyload --config %s ...\nthen: cardkmsd serve --config %s\n",
				args[0], filepath.Join(args[0], "cardkms.yaml"), filepath.Join(args[0], "cardkms.yaml"))
			return nil
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8443", "address that the server will listen on")
	return c
}

// digits returns n random decimal digits, for PINs of throw-away tokens.
func digits(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	for i := range b {
		b[i] = '0' + b[i]%10
	}
	return b, nil
}

func initDev(ctx context.Context, dir, listen string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s exists; a set-up is made in a new directory", dir)
		}
		return err
	}
	module, err := softhsm.Module()
	if err != nil {
		return err
	}
	verifier, kcv, err := initToken(ctx, dir, module)
	if err != nil {
		return err
	}
	ca, err := newDevCA(filepath.Join(dir, "tls"))
	if err != nil {
		return err
	}
	if err := ca.server(); err != nil {
		return err
	}
	for _, c := range devClients {
		if err := ca.client(c.name, devDomain+c.path); err != nil {
			return err
		}
	}
	if err := releasePair(filepath.Join(dir, "release")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "log.vkey"), []byte(verifier+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cardkms.yaml"), devConfig(listen, module, verifier, kcv), 0o600)
}

// initToken makes the SoftHSM2 token and the two keys of the service in it.
func initToken(ctx context.Context, dir, module string) (verifier string, kcv key.KCV, err error) {
	tokens := filepath.Join(dir, "softhsm")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", kcv, err
	}
	if err := softhsm.Use(tokens); err != nil {
		return "", kcv, err
	}
	pin, err := digits(8)
	if err != nil {
		return "", kcv, err
	}
	soPIN, err := digits(12)
	if err != nil {
		return "", kcv, err
	}
	// The Security Officer PIN is not kept: a development token is replaced, not
	// administered.
	if err := hsm.Format(module, devLabel, secret.New(soPIN), secret.New(pin)); err != nil {
		return "", kcv, fmt.Errorf("making a token: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pin"), pin, 0o600); err != nil {
		return "", kcv, err
	}
	t, err := hsm.Open(ctx, hsm.Config{Module: module, Label: devLabel, PIN: secret.New(pin), Logger: slog.Default()})
	if err != nil {
		return "", kcv, err
	}
	defer t.Close()
	sign, err := t.GenerateSigning(ctx, logLabel, t.PreferredSigning())
	if err != nil {
		return "", kcv, fmt.Errorf("making the log's signing key: %w", err)
	}
	if verifier, err = logVerifier(devOrigin, sign); err != nil {
		return "", kcv, err
	}
	root, err := t.Generate(ctx, pseudoLabel, key.AES256, derive.SessionMAC)
	if err != nil {
		return "", kcv, fmt.Errorf("making the pseudonym key: %w", err)
	}
	return verifier, root.KCV, nil
}

var devClients = []struct{ name, path, config string }{
	{"update-server", "/role/update-server/one", "    role: update-server\n    issuer: " + devIssuer + "\n    cards: {from: \"00000000000000000000\", to: \"FFFFFFFFFFFFFFFFFFFF\"}\n"},
	{"security-officer", "/role/security-officer/ada", "    role: security-officer\n    issuer: " + devIssuer + "\n"},
	{"auditor", "/role/auditor/grace", "    role: auditor\n"},
	{"operator", "/role/operator/rear", "    role: operator\n"},
}

func devConfig(listen, module, verifier string, kcv key.KCV) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `# A development set-up: SoftHSM2 keeps the keys in files. Not for production.
development: true
listen: %q
data: data
token:
  module: %q
  softhsm: softhsm
  label: %s
  pin: file:pin
  pseudonym: {label: %s, kcv: "%s:%s"}
tls:
  certificate: tls/server.pem
  key: tls/server.key
  clientCAs: tls/ca.pem
log:
  label: %s
  origin: %s
  verifier: %q
clients:
`, listen, module, devLabel, pseudoLabel, kcv.Method, kcv.Value, logLabel, devOrigin, verifier)
	for _, c := range devClients {
		fmt.Fprintf(&b, "  - id: %s%s\n%s", devDomain, c.path, c.config)
	}
	fmt.Fprintf(&b, `profiles:
  default:
    mode: s8
    aid: "A000000151000000"
    level: "33"
    suite: "01"
    chunkSize: 1024
releaseKeys:
  %s: {release: release/release.pem}
`, devIssuer)
	return []byte(b.String())
}
