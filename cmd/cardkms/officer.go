package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api/client"
	"cardkms/kms/approval/officerkey"
)

func (a *app) officerCommand() *cobra.Command {
	c := &cobra.Command{Use: "officer", Short: "Security officers who take part in dual control"}
	c.AddCommand(a.enrolCommand(), a.officersCommand())
	return c
}

func (a *app) enrolCommand() *cobra.Command {
	var name, out, file string
	c := &cobra.Command{
		Use: "enrol --name NAME --out FILE", Short: "Make an officer's key on this machine and print its public line", Args: exactly(0),
		Long: `Make an Ed25519 key in OpenSSH's format, protected by a passphrase, in FILE, and its
public line in FILE.pub. The private key stays on this machine. Give the line to
the ceremony that makes the first officers, or to an officer who proposes
officer.enrol.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			passphrase, err := newPassphrase(file)
			if err != nil {
				return err
			}
			defer clear(passphrase)
			private, public, err := officerkey.New(name, passphrase)
			if err != nil {
				return err
			}
			if err := writeNew(out, private, 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".pub", public, 0o644); err != nil {
				return err
			}
			line := strings.TrimSpace(string(public))
			return a.show(map[string]string{"name": name, "public": line, "file": out}, "%s", line)
		},
	}
	c.Flags().StringVar(&name, "name", "", "`NAME` of the officer")
	c.Flags().StringVar(&out, "out", "", "`FILE` for the private key; must not exist")
	c.Flags().StringVar(&file, "passphrase-file", "", "`FILE` with the passphrase (default: ask twice)")
	_ = c.MarkFlagRequired("name")
	_ = c.MarkFlagRequired("out")
	return c
}

// newPassphrase has the officer type a passphrase twice.
func newPassphrase(file string) ([]byte, error) {
	one, err := readPassphrase(file, "New passphrase")
	if err != nil || file != "" {
		return one, err
	}
	two, err := readPassphrase("", "The same again")
	defer clear(two)
	if err == nil && !bytes.Equal(one, two) {
		err = errors.New("the passphrases differ")
	}
	return one, err
}

func (a *app) officersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List officers and how many must approve what", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all, err := c.Control(cmd.Context())
				if err != nil {
					return err
				}
				var text []string
				for _, o := range all.Officers {
					issuer := plain(o.Issuer)
					if issuer == "" {
						issuer = "every issuer"
					}
					text = append(text, fmt.Sprintf("%s  %s  %s  %s", plain(o.Name), plain(o.State), plain(o.Identity), issuer))
				}
				for _, p := range all.Policies {
					text = append(text, fmt.Sprintf("%s needs %d approvals", plain(p.Operation), p.K))
				}
				if all.Unreviewed {
					text = append(text, "THE GLASS was broken until "+stamp(all.GlassUntil)+"; it needs a review (glass.review)")
				}
				return a.show(all, "%s", strings.Join(append(text, count(int64(len(all.Officers)), "officer")), "\n"))
			})
		},
	}
}
