package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
	"cardkms/kms/profile"
)

var profileArg = argument{"PROFILE", "the name of a card profile", keyArg.is}

func (a *app) profileCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "profile", Short: "Card profiles: what the service knows of a card product",
		Long: `Card profiles: what the service knows of a card product, one YAML document each.
deploy/profiles/README.md explains its fields. Officers register a document as the
next version of its profile:

  cardkms profile check card.yaml
  cardkms approval propose profile.register issuers/demo/profiles/NAME --document card.yaml`,
	}
	c.AddCommand(a.profileCheckCommand(), a.profilesCommand(), a.profileShowCommand())
	return c
}

func (a *app) profileCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Check a card profile offline, and say all that is wrong with it", Args: exactly(1),
		Long: `Check a card profile offline, and say all that is wrong with it, one problem to a line.
Its known answers need a token: "cardkmsd probe --profile FILE" runs them, and so does
the service when the profile is proposed and when it is registered.`,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			p, err := profile.Parse(b)
			if err != nil {
				return problems(args[0], err)
			}
			digest := profile.Digest(b)
			return a.show(map[string]any{"profile": p.Name, "knownAnswers": len(p.Answers), "sha256": hex.EncodeToString(digest[:])},
				"%s: profile %s, %s, SHA-256 %x", args[0], p.Name, count(int64(len(p.Answers)), "known answer"), digest)
		},
	}
}

// problems says what is wrong with a file, one problem to a line.
func problems(file string, err error) error {
	var all profile.Problems
	if !errors.As(err, &all) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return fmt.Errorf("%w: %s:\n%s", errNotVerified, file, strings.Join(all, "\n"))
}

func (a *app) profilesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the newest versions of the issuer's card profiles", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all, err := c.Profiles(cmd.Context(), a.issuer)
				if err != nil {
					return err
				}
				rows := make([][]string, len(all))
				for i, p := range all {
					rows[i] = profileFields(p)
				}
				return a.show(all, "%s", strings.Join(append(columns(rows), count(int64(len(all)), "card profile")), "\n"))
			})
		},
	}
}

func (a *app) profileShowCommand() *cobra.Command {
	var version int
	c := &cobra.Command{
		Use: "show PROFILE", Short: "Show a version of a card profile with its document", Args: arguments(profileArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				p, err := c.Profile(cmd.Context(), a.issuer, args[0], version)
				if err != nil {
					return err
				}
				return a.show(p, "# %s\n%s", strings.Join(profileFields(p), "  "), strings.TrimSuffix(p.Document, "\n"))
			})
		},
	}
	c.Flags().IntVar(&version, "version", 0, "`NUMBER` of the version (default: the newest)")
	return c
}

func profileFields(p api.CardProfile) []string {
	fields := []string{plain(p.Name), fmt.Sprintf("version %d", p.Version), stamp(p.Registered), fmt.Sprintf("SHA-256 %x", []byte(p.SHA256))}
	if p.Withdrawn {
		fields = append(fields, "WITHDRAWN")
	}
	return fields
}

// attach puts a document into a proposal that is to sign its digest.
func attach(in *api.Propose, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if in.Operation == approval.ProfileRegister {
		if _, err := profile.Parse(b); err != nil {
			return problems(file, err)
		}
	}
	digest := sha256.Sum256(b)
	if in.Params == nil {
		in.Params = map[string]string{}
	}
	in.Document, in.Params["sha256"] = string(b), hex.EncodeToString(digest[:])
	return nil
}

// attached refuses a proposal that signs a document other than the one that the service
// shows: nobody signs what was not seen.
func attached(p api.Proposal, parsed approval.Proposal) error {
	if p.Document == "" && parsed.Params["sha256"] == "" || parsed.Signs([]byte(p.Document)) {
		return nil
	}
	return fmt.Errorf("%w: the service shows another document than the one that the proposal is about", errNotVerified)
}
