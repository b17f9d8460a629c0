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

	"cardkms/kms/ceremony"
	"cardkms/kms/hsm"
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
	stateLabel  = "cardkms-state"
	anchorLabel = "cardkms-anchor"

	devProxyPath = "/proxy/load-balancer"
)

func initCommand() *cobra.Command {
	var listen string
	var balancer bool
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a development set-up: SoftHSM2 token, service keys, CA, certificates, configuration",
		Long: `Make a development set-up in DIR, which must not exist yet:

  cardkms.yaml   the configuration (development: true)
  softhsm/       a SoftHSM2 token with the service's own keys
  pin            the token's User PIN
  anchor/        where the newest checkpoint is kept outside the database
  tls/           a CA, the server's certificate and one certificate per role; three
                 for security officers
  officers/      the officers' keys, and a passphrase for all of them
  release/       an Ed25519 key pair that signs images

  keys.yaml      a key ceremony that makes two master keys inside the token and registers
                 a card profile

The CA's key is not kept. For production, a key ceremony makes the token's keys and
enrols the first officers: "cardkmsd ceremony run", deploy/CEREMONY.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkListen(listen); err != nil {
				return errUsage{fmt.Errorf("--listen: %w", err)}
			}
			if err := initDev(cmd.Context(), args[0], listen, balancer); err != nil {
				return err
			}
			in := func(name string) string { return filepath.Join(args[0], name) }
			fmt.Fprintf(cmd.OutOrStdout(), `Development set-up made in %s
next: two officers sign the ceremony that makes the first master keys, and it is run:
  cardkms ceremony approve %[2]s --officer ada --key %[3]s --passphrase-file %[5]s
  cardkms ceremony approve %[2]s --officer bob --key %[4]s --passphrase-file %[5]s
  cardkmsd ceremony run %[2]s
then: cardkmsd serve --config %[6]s
`, args[0], in("keys.yaml"), in("officers/ada"), in("officers/bob"), in("officers/passphrase"), in("cardkms.yaml"))
			return nil
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8443", "address that the server will listen on")
	c.Flags().BoolVar(&balancer, "load-balancer", false, "also make a certificate of a load balancer, which says who its clients are")
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

func initDev(ctx context.Context, dir, listen string, balancer bool) error {
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
	if err := os.Mkdir(filepath.Join(dir, "anchor"), 0o700); err != nil {
		return err
	}
	made, err := initToken(ctx, dir, module)
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
	text := devConfig(listen, module, made)
	if balancer {
		if err := ca.client("load-balancer", devDomain+devProxyPath); err != nil {
			return err
		}
		text = append(text, "proxies: ["+devDomain+devProxyPath+"]\n"...)
	}
	if err := releasePair(filepath.Join(dir, "release")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "log.vkey"), []byte(made.verifier+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "keys.yaml"), []byte(devKeys), 0o600); err != nil {
		return err
	}
	config := filepath.Join(dir, "cardkms.yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	officers, err := makeOfficers(filepath.Join(dir, "officers"))
	if err != nil {
		return err
	}
	return enrolDevOfficers(ctx, config, officers)
}

// initToken makes the SoftHSM2 token and the keys of the service in it.
func initToken(ctx context.Context, dir, module string) (made serviceKeys, err error) {
	tokens := filepath.Join(dir, "softhsm")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return made, err
	}
	if err := softhsm.Use(tokens); err != nil {
		return made, err
	}
	pin, err := digits(8)
	if err != nil {
		return made, err
	}
	soPIN, err := digits(12)
	if err != nil {
		return made, err
	}
	// The Security Officer PIN is not kept: a development token is replaced, not
	// administered.
	if err := hsm.Format(module, devLabel, secret.New(soPIN), secret.New(pin)); err != nil {
		return made, fmt.Errorf("making a token: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pin"), pin, 0o600); err != nil {
		return made, err
	}
	t, err := hsm.Open(ctx, hsm.Config{Module: module, Label: devLabel, PIN: secret.New(pin), Logger: slog.Default()})
	if err != nil {
		return made, err
	}
	defer t.Close()
	return serviceKeysOf(ctx, t, ceremony.ServiceKeys{Origin: devOrigin, Log: logLabel, Pseudonym: pseudoLabel, State: stateLabel})
}

// devKeys is the ceremony of a development set-up's first keys and of its card profile.
const devKeys = `ceremony: First keys of the development set-up
configuration: cardkms.yaml
present: [ada, bob]
keys:
  - {issuer: ` + devIssuer + `, key: isd, kvn: "30", master: {generate: true}}
  - {issuer: ` + devIssuer + `, key: upd, usage: card-update, kvn: "5A", algorithm: aes-128, master: {generate: true}}
` + devProfiles

// devProfiles are the card profiles of its ceremony.
const devProfiles = `profiles:
  - issuer: ` + devIssuer + `
    document: |
      name: default
      protocol: scp03
      i: "70"
      aid: "A000000151000000"
      level: "33"
      keys: {algorithm: aes-128, diversification: kdf3, kvn: {from: "30", to: "3F"}}
`

var devClients = []struct{ name, path, config string }{
	{"update-server", "/role/update-server/one", "    role: update-server\n    issuer: " + devIssuer + "\n    cards: {from: \"00000000000000000000\", to: \"FFFFFFFFFFFFFFFFFFFF\"}\n"},
	// Officers serve every issuer, so that the three can decide about each other too.
	{"security-officer", devOfficerPath + "ada", "    role: security-officer\n"},
	{"security-officer-bob", devOfficerPath + "bob", "    role: security-officer\n"},
	{"security-officer-cyd", devOfficerPath + "cyd", "    role: security-officer\n"},
	{"auditor", "/role/auditor/grace", "    role: auditor\n"},
	{"operator", "/role/operator/rear", "    role: operator\n"},
}

func devConfig(listen, module string, made serviceKeys) []byte {
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
  state: {label: %s, kcv: "%s:%s"}
tls:
  certificate: tls/server.pem
  key: tls/server.key
  clientCAs: tls/ca.pem
log:
  label: %s
  origin: %s
  verifier: %q
anchors:
  file: anchor/checkpoint
  token: %s
clients:
`, listen, module, devLabel, pseudoLabel, made.pseudonym.Method, made.pseudonym.Value, stateLabel, made.state.Method, made.state.Value,
		logLabel, devOrigin, made.verifier, anchorLabel)
	for _, c := range devClients {
		fmt.Fprintf(&b, "  - id: %s%s\n%s", devDomain, c.path, c.config)
	}
	fmt.Fprintf(&b, `releaseKeys:
  %s: {release: release/release.pem}
`, devIssuer)
	return []byte(b.String())
}
