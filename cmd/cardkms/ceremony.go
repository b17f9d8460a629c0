package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"cardkms/kms/approval"
)

func (a *app) ceremonyCommand() *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "What officers do for key ceremonies"}
	c.AddCommand(a.ceremonyApproveCommand())
	return c
}

// officerName is what a line of signatures can hold.
var officerName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,62}$`)

func (a *app) ceremonyApproveCommand() *cobra.Command {
	var s signer
	var officer string
	var yes bool
	c := &cobra.Command{
		Use: "approve FILE --officer NAME --key KEY", Short: "Sign the file of a key ceremony, with the officer's key", Args: exactly(1),
		Long: `Show the file of a key ceremony and sign its SHA-256, on the officer's own machine.
The signature is added to FILE.approvals, which goes to the machine of the ceremony.
Whoever changes the file afterwards needs new signatures.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !officerName.MatchString(officer) {
				return errUsage{fmt.Errorf("no officer is called %q", officer)}
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			digest := sha256.Sum256(b)
			what := fmt.Sprintf("%s\nSHA-256 %x\nYou approve this ceremony with a signature.\n", b, digest)
			if err := a.confirm(cmd, yes, "approve", what); err != nil {
				return err
			}
			signature, err := s.sign(cmd.Context(), approval.CeremonyStatement(digest))
			if err != nil {
				return err
			}
			line := officer + " " + base64.StdEncoding.EncodeToString(signature)
			if err := appendLine(args[0]+".approvals", line); err != nil {
				return err
			}
			return a.show(map[string]string{"officer": officer, "sha256": fmt.Sprintf("%x", digest)}, "%s signed %x", officer, digest)
		},
	}
	s.flags(c)
	c.Flags().StringVar(&officer, "officer", "", "`NAME` of the officer")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("officer")
	return c
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, line); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
