package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
)

func officersCommand() *cobra.Command {
	c := &cobra.Command{Use: "officers", Short: "The first officers of dual control"}
	c.AddCommand(officersInitCommand())
	return c
}

func officersInitCommand() *cobra.Command {
	var path string
	var officers []string
	var k int
	var yes bool
	c := &cobra.Command{
		Use:   "init --officer NAME=SPIFFE-ID=PUBKEYFILE ... --k K",
		Short: "Make the first officers, once, while there is none",
		Long: `Make the first officers and say how many must approve an operation (k). There are
at least k+1 of them, because who proposes does not approve. Each made a key with
"cardkms officer enrol"; PUBKEYFILE is its public line, and SPIFFE-ID the identity
of the officer's client certificate, which stands under clients: too.

Compare the keys with what the officers read out. Later officers are enrolled by
these, with an approved proposal, and by nobody at the console.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var first []approval.Officer
			for _, s := range officers {
				o, err := firstOfficer(s)
				if err != nil {
					return err
				}
				first = append(first, o)
				line, err := officerkey.Line(o.Name, o.Public)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s\n  %s\n  %s", o.Name, o.Identity, line)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "This will let these officers decide about everything that needs dual control, with %d approvals.\n", k)
			if err := confirm(cmd, yes, "enrol"); err != nil {
				return err
			}
			return withNode(cmd, path, func(n *node) error {
				return n.service.EnrolFirst(cmd.Context(), operator(), "", first, k)
			})
		},
	}
	c.Flags().StringVar(&path, "config", "cardkms.yaml", "configuration `FILE`")
	c.Flags().StringArrayVar(&officers, "officer", nil, "`NAME=SPIFFE-ID=PUBKEYFILE`; k+1 times or more")
	c.Flags().IntVar(&k, "k", approval.KMin, "approvals that an operation needs")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("officer")
	return c
}

func firstOfficer(s string) (o approval.Officer, err error) {
	parts := strings.SplitN(s, "=", 3)
	if len(parts) != 3 {
		return o, errors.New("an officer is given as NAME=SPIFFE-ID=PUBKEYFILE")
	}
	line, err := os.ReadFile(parts[2])
	if err != nil {
		return o, err
	}
	public, err := officerkey.ParseLine(line)
	if err != nil {
		return o, fmt.Errorf("%s: %w", parts[2], err)
	}
	o = approval.Officer{Name: parts[0], Identity: parts[1], Public: public, State: approval.Active}
	return o, o.Check()
}

// devOfficers are the names of the officers of a development set-up.
var devOfficers = []string{"ada", "bob", "cyd"}

const devOfficerPath = "/role/security-officer/"

// makeOfficers makes the keys of a development set-up's officers under a passphrase
// that lies beside them, which is what makes them useless for anything else.
func makeOfficers(dir string) (officers []approval.Officer, err error) {
	passphrase, err := digits(16)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "passphrase"), passphrase, 0o600); err != nil {
		return nil, err
	}
	for _, name := range devOfficers {
		private, line, err := officerkey.New(name, passphrase)
		if err != nil {
			return nil, err
		}
		public, err := officerkey.ParseLine(line)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, private, 0o600), os.WriteFile(file+".pub", line, 0o644)); err != nil {
			return nil, err
		}
		officers = append(officers, approval.Officer{Name: name, Identity: devDomain + devOfficerPath + name, Public: public, State: approval.Active})
	}
	return officers, nil
}

// enrolDevOfficers opens the new set-up once to enrol its officers.
func enrolDevOfficers(ctx context.Context, config string, officers []approval.Officer) error {
	cfg, err := load(config)
	if err != nil {
		return err
	}
	n, err := open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer n.close()
	return n.service.EnrolFirst(ctx, operator(), "", officers, approval.KMin)
}
