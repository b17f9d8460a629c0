package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
)

// signer is where the officer's key is: flags of every command that signs.
type signer struct {
	key, passphrase string
	agent           bool
}

func (s *signer) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.key, "key", "", "`FILE` with the officer's private key; with --agent, the public key line")
	c.Flags().StringVar(&s.passphrase, "passphrase-file", "", "`FILE` with its passphrase (default: ask)")
	c.Flags().BoolVar(&s.agent, "agent", false, "sign with the SSH agent at SSH_AUTH_SOCK")
	_ = c.MarkFlagRequired("key")
}

// signed is a signature with the public key that it verifies under.
type signed struct {
	signature []byte
	public    ed25519.PublicKey
}

// sign signs a message with the officer's key.
func (s *signer) sign(ctx context.Context, message []byte) (signed, error) {
	file, err := os.ReadFile(s.key)
	if err != nil {
		return signed{}, err
	}
	if s.agent {
		return signWithAgent(ctx, file, message)
	}
	passphrase, err := readPassphrase(s.passphrase, "Passphrase of "+s.key)
	if err != nil {
		return signed{}, err
	}
	defer clear(passphrase)
	k, err := officerkey.Open(file, passphrase)
	if err != nil {
		return signed{}, fmt.Errorf("%s: %w", s.key, err)
	}
	defer clear(k)
	public := bytes.Clone(k.Public().(ed25519.PublicKey)) // not what is wiped
	return signed{ed25519.Sign(k, message), public}, nil
}

func signWithAgent(ctx context.Context, line, message []byte) (signed, error) {
	public, err := officerkey.ParseLine(line)
	if err != nil {
		return signed{}, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		return signed{}, fmt.Errorf("SSH_AUTH_SOCK names no agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	signature, err := officerkey.SignWithAgent(conn, public, message)
	if err == nil && !ed25519.Verify(public, message, signature) {
		err = fmt.Errorf("%w: the agent signed with another key", errNotVerified)
	}
	return signed{signature, public}, err
}

// readPassphrase reads a passphrase from a file, or asks for it on the terminal.
func readPassphrase(file, prompt string) ([]byte, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		return bytes.TrimRight(b, "\r\n"), err
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, errUsage{errors.New("standard input is no terminal to ask for a passphrase on; use --passphrase-file")}
	}
	fmt.Fprint(os.Stderr, prompt+": ")
	defer fmt.Fprintln(os.Stderr)
	return term.ReadPassword(fd)
}

func (a *app) decideCommand(d approval.Decision) *cobra.Command {
	var s signer
	var yes bool
	short := "Approve a proposal, with the officer's key"
	if d == approval.Reject {
		short = "Reject a proposal, with the officer's key; it ends"
	}
	c := &cobra.Command{
		Use: string(d) + " ID --key FILE", Short: short, Args: arguments(proposalArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				p, err := a.decide(cmd, c, args[0], d, &s, yes)
				if err != nil {
					return err
				}
				return a.show(p, "%s", progress(p))
			})
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// decide signs what it shows: the digest is computed from the encoding that was
// parsed.
func (a *app) decide(cmd *cobra.Command, c *client.Client, id string, d approval.Decision, s *signer, yes bool) (api.Proposal, error) {
	p, parsed, err := fetchProposal(cmd.Context(), c, id)
	if err != nil {
		return p, err
	}
	digest, err := parsed.Digest()
	if err != nil {
		return p, err
	}
	what := spelt(p, parsed) + fmt.Sprintf("  %-10s %x\nYou %s it with a signature.\n", "SHA-256", digest, d)
	if err := a.confirm(cmd, yes, string(d), what); err != nil {
		return p, err
	}
	made, err := s.sign(cmd.Context(), approval.Statement(d, digest))
	if err != nil {
		return p, err
	}
	if d == approval.Reject {
		return c.Reject(cmd.Context(), id, made.signature)
	}
	return c.Approve(cmd.Context(), id, made.signature)
}
