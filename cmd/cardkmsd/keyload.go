package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

type keyloadFlags struct {
	config, issuer, name, usage, algorithm, card, diversification string
	kvn                                                           string
	generate                                                      bool
	components                                                    int
}

func keyloadCommand() *cobra.Command {
	var f keyloadFlags
	c := &cobra.Command{
		Use:   "keyload",
		Short: "Make a key version: generated in the token, or combined from XOR components",
		Long: `Make the next version of a master key, at the console of the machine with the
token, while no server runs on the same data directory.

With --generate the value is made inside the token and nobody ever knows it.
With --components N each of N custodians enters one component in hexadecimal;
the screen shows it nowhere and answers with its key check value (KCV), to be
compared with the custodian's sheet. The components meet in this process's
memory for the moment of the import, because SoftHSM2 cannot combine them
inside, and are then overwritten.

Without diversification (none) the version has three values, K-ENC, K-MAC and
K-DEK, entered one after another. If standard input is not a terminal,
components are read from it, one to a line.`,
		Example: `  cardkmsd keyload --config cardkms.yaml --issuer demo --key isd --usage gp-scp03 \
      --kvn 30 --algorithm aes-256 --card-algorithm aes-128 --diversification kdf3 --components 2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return keyload(cmd, f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.config, "config", "cardkms.yaml", "configuration `FILE`")
	fl.StringVar(&f.issuer, "issuer", "", "issuer that the key belongs to")
	fl.StringVar(&f.name, "key", "", "name of the key")
	fl.StringVar(&f.usage, "usage", "gp-scp03", "usage: gp-scp03 or card-update")
	fl.StringVar(&f.kvn, "kvn", "", "Key Version Number on the cards, two hexadecimal digits")
	fl.StringVar(&f.algorithm, "algorithm", "aes-256", "of the master: aes-128, aes-192, aes-256, tdea-2key")
	fl.StringVar(&f.card, "card-algorithm", "aes-128", "of the card keys: aes-128, aes-192, aes-256")
	fl.StringVar(&f.diversification, "diversification", "kdf3", fmt.Sprintf("one of %s", diversify.Methods()))
	fl.BoolVar(&f.generate, "generate", false, "generate inside the token")
	fl.IntVar(&f.components, "components", 0, "combine this many XOR components (2 or 3)")
	for _, name := range []string{"issuer", "key", "kvn"} {
		_ = c.MarkFlagRequired(name)
	}
	c.MarkFlagsOneRequired("generate", "components")
	c.MarkFlagsMutuallyExclusive("generate", "components")
	return c
}

func (f keyloadFlags) newKey() (kms.NewKey, error) {
	kvn, err := hex.DecodeString(f.kvn)
	if err != nil || len(kvn) != 1 {
		return kms.NewKey{}, errors.New("--kvn has two hexadecimal digits")
	}
	if !f.generate && (f.components < 2 || f.components > 3) {
		return kms.NewKey{}, errors.New("--components is 2 or 3: one custodian alone must not know a key")
	}
	n := kms.NewKey{
		Issuer: f.issuer, Name: f.name, Usage: key.Usage(f.usage), KVN: kvn[0],
		Algorithm: key.Algorithm(f.algorithm), CardAlgorithm: key.Algorithm(f.card),
		Diversification: diversify.Method(f.diversification),
	}
	return n, n.Check()
}

func keyload(cmd *cobra.Command, f keyloadFlags) error {
	n, err := f.newKey()
	if err != nil {
		return err
	}
	cfg, err := load(f.config)
	if err != nil {
		return err
	}
	nd, err := open(cmd.Context(), cfg, slog.Default())
	if err != nil {
		return err
	}
	defer nd.close()
	var maker kms.Maker = generator{nd.token}
	if !f.generate {
		maker = &custodians{generator: generator{nd.token}, n: f.components, in: bufio.NewReader(cmd.InOrStdin()), out: cmd.OutOrStdout()}
	}
	v, err := nd.service.LoadKey(cmd.Context(), operator(), n, maker)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, KVN %02X, diversification %s, %s\n", v.ID, v.Algorithm, v.KVN, v.Diversification, v.State)
	for p, kcv := range v.KCVs {
		fmt.Fprintf(cmd.OutOrStdout(), "  %-6s KCV %s (%s)\n", p, kcv.Value, kcv.Method)
	}
	return nil
}

// operator names the person at the console for the audit log.
func operator() string {
	u, err := user.Current()
	if err != nil {
		return "unknown"
	}
	return "os-user:" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, u.Username)
}

// generator makes values inside the token.
type generator struct{ token *hsm.Token }

// Taken implements kms.Maker.
func (g generator) Taken(ctx context.Context, label string) (bool, error) {
	return g.token.Taken(ctx, label)
}

// Make implements kms.Maker.
func (g generator) Make(ctx context.Context, label string, a key.Algorithm, c derive.Class, _ key.Part) (derive.Root, error) {
	return g.token.Generate(ctx, label, a, c)
}

// custodians enter the components of each part of a version.
type custodians struct {
	generator
	n   int
	in  *bufio.Reader
	out io.Writer
}

// Make implements kms.Maker.
func (c *custodians) Make(ctx context.Context, label string, a key.Algorithm, class derive.Class, p key.Part) (derive.Root, error) {
	var parts []secret.Bytes
	defer func() {
		for _, s := range parts {
			s.Wipe()
		}
	}()
	for i := range c.n {
		s, err := c.component(ctx, a, fmt.Sprintf("%s, component %d of %d", p, i+1, c.n))
		if err != nil {
			return derive.Root{}, err
		}
		parts = append(parts, s)
	}
	sum := secret.XOR(parts...)
	if sum.Equal(secret.New(make([]byte, a.Size()))) {
		return derive.Root{}, errors.New("the components cancel each other out; custodians must not enter the same one")
	}
	return c.token.Import(ctx, label, a, class, sum)
}

// component reads one component and shows its check value, computed in the
// token.
func (c *custodians) component(ctx context.Context, a key.Algorithm, what string) (secret.Bytes, error) {
	line, err := c.read(what)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading %s: %w", what, err)
	}
	defer clear(line)
	b := make([]byte, a.Size())
	if n, err := hex.Decode(b, line[:min(len(line), 2*len(b))]); err != nil || n != len(b) || len(line) != 2*len(b) {
		clear(b)
		return secret.Bytes{}, fmt.Errorf("%s: a component has %d hexadecimal digits", what, 2*a.Size())
	}
	k, forget, err := c.token.ImportVolatile(ctx, "cardkms-component", a, derive.Static, b)
	if err != nil {
		clear(b)
		return secret.Bytes{}, err
	}
	defer forget()
	kcv, err := c.token.KCV(ctx, k)
	if err != nil {
		clear(b)
		return secret.Bytes{}, err
	}
	fmt.Fprintf(c.out, "%s: KCV %s (%s)\n", what, kcv.Value, kcv.Method)
	return secret.New(b), nil
}

func (c *custodians) read(what string) ([]byte, error) {
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		fmt.Fprintf(c.out, "%s: ", what)
		line, err := term.ReadPassword(fd)
		fmt.Fprintln(c.out)
		return line, err
	}
	line, err := c.in.ReadBytes('\n')
	if err != nil && len(line) == 0 {
		return nil, err
	}
	return bytes.TrimSpace(line), nil
}
