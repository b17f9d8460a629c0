package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"cardkms/api/client"
	"cardkms/audit/durable"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
	"cardkms/kms/ceremony"
)

func (a *app) ceremonyCommand() *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "What officers do for key ceremonies and restorations"}
	c.AddCommand(a.ceremonyApproveCommand())
	return c
}

// officerName is what a line of signatures can hold.
var officerName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,62}$`)

func (a *app) ceremonyApproveCommand() *cobra.Command {
	var s signer
	var officer string
	var yes, service bool
	c := &cobra.Command{
		Use: "approve FILE --officer NAME --key KEY", Short: "Sign the file of a key ceremony or of a restoration, with the officer's key", Args: exactly(1),
		Long: `Show the file of a key ceremony, or the restoration that "cardkmsd restore" wrote, and
sign its SHA-256, on the officer's own machine. Another file is refused. The signature
goes into FILE.approvals, in the place of an earlier one of the same officer; that file
goes to the machine of the token. Whoever changes FILE afterwards needs new signatures.

Where FILE lists the first officers, name and key must be those of one of them. Else
--service asks the service for its officers and compares name and key; without it
nobody compares them before "cardkmsd" does.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !officerName.MatchString(officer) {
				return errUsage{fmt.Errorf("no officer is called %q", officer)}
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			f, err := readSignable(b)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if service && f.officers == nil {
				if f.officers, err = a.fetchOfficers(cmd.Context()); err != nil {
					return err
				}
			}
			public, err := a.signFile(cmd, &s, f, args[0], officer, yes)
			if err != nil {
				return err
			}
			done := map[string]any{"officer": officer, "sha256": fmt.Sprintf("%x", f.digest), "fingerprint": fingerprint(public), "compared": f.officers != nil}
			if f.officers == nil {
				return a.show(done, "signed %x\nin the name %s, with the key %s; cardkmsd compares the two", f.digest, officer, fingerprint(public))
			}
			return a.show(done, "%s signed %x\nwith the officer's key %s", officer, f.digest, fingerprint(public))
		},
	}
	s.flags(c)
	c.Flags().StringVar(&officer, "officer", "", "`NAME` of the officer")
	c.Flags().BoolVar(&service, "service", false, "compare name and key with the officers of the service")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("officer")
	return c
}

// signable is a file that officers sign offline.
type signable struct {
	text, what string
	digest     [32]byte
	statement  []byte
	officers   approval.Officers // who may sign it; nil if nobody said that
}

// readSignable refuses what is neither a ceremony nor a restoration: an officer signs
// nothing that the other side would not read the same way.
func readSignable(b []byte) (f signable, err error) {
	f = signable{text: string(b), what: "ceremony", digest: sha256.Sum256(b)}
	if approval.IsRestoration(b) {
		r, err := approval.ParseRestoration(b)
		if err == nil {
			f.statement, err = r.Statement()
		}
		f.what = "restoration of an older database"
		return f, err
	}
	c, err := ceremony.Parse(b)
	if err != nil {
		return f, err
	}
	f.statement = approval.CeremonyStatement(c.Digest)
	if c.Officers != nil {
		f.officers, err = firstOfficers(*c.Officers)
	}
	return f, err
}

// firstOfficers are those whom a ceremony makes: their identities are those of security
// officers.
func firstOfficers(o ceremony.Officers) (approval.Officers, error) {
	var first []approval.Officer
	for _, one := range o.First {
		public, err := officerkey.ParseLine([]byte(one.Public))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		first = append(first, approval.Officer{Name: one.Name, Identity: one.Identity, Public: public, State: approval.Active})
	}
	return approval.First(first, o.Approvals)
}

// fetchOfficers asks the service for its officers.
func (a *app) fetchOfficers(ctx context.Context) (approval.Officers, error) {
	all := approval.Officers{}
	err := a.with(func(c *client.Client) error {
		control, err := c.Control(ctx)
		for _, o := range control.Officers {
			all[o.Name] = approval.Officer{Name: o.Name, Identity: o.Identity, Public: ed25519.PublicKey(o.Public), Issuer: o.Issuer, State: approval.OfficerState(o.State)}
		}
		return err
	})
	return all, err
}

// signFile signs what it shows, and keeps the signature beside the file. It returns the
// public key of it, which is the officer's only where f says who the officers are.
func (a *app) signFile(cmd *cobra.Command, s *signer, f signable, path, officer string, yes bool) (ed25519.PublicKey, error) {
	o, known := f.officers[officer]
	if f.officers != nil && (!known || !o.Serves("") || o.Check() != nil) {
		return nil, fmt.Errorf("%w: no active officer for every issuer is called %s", errNotVerified, officer)
	}
	what := fmt.Sprintf("%s\nSHA-256 %x\nYou approve this %s with a signature.\n", f.text, f.digest, f.what)
	if err := a.confirm(cmd, yes, "approve", what); err != nil {
		return nil, err
	}
	made, err := s.sign(cmd.Context(), f.statement)
	if err != nil {
		return nil, err
	}
	if known && !ed25519.Verify(o.Public, f.statement, made.signature) {
		return nil, fmt.Errorf("%w: the key is not that of %s", errNotVerified, officer)
	}
	return made.public, keepSignature(path+".approvals", officer, made.signature)
}

// keepSignature puts an officer's signature into the file of signatures, in the place of
// an earlier one.
func keepSignature(path, officer string, signature []byte) error {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, err := approval.ParseSignatures(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	all[officer] = signature
	return durable.Replace(path, all.Encode(), 0o600)
}
