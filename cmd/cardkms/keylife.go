package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
)

// versionArgs reads KEY VERSION, which were checked to be these.
func versionArgs(args []string) (key string, version int) {
	version, _ = strconv.Atoi(args[1])
	return args[0], version
}

func (a *app) publicCommand() *cobra.Command {
	return &cobra.Command{
		Use: "public KEY VERSION", Short: "Print the public key of a gp-scp11 version in PEM, for an authority to certify", Args: arguments(keyArg, numberArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, version := versionArgs(args)
			return a.with(func(c *client.Client) error {
				keys, err := c.Keys(cmd.Context(), a.issuer)
				if err != nil {
					return err
				}
				for _, k := range keys {
					if k.Key != key || k.Version != version {
						continue
					}
					if len(k.PublicKey) == 0 {
						return fmt.Errorf("%s has no public key: it is of %s", plain(k.Name), plain(k.Usage))
					}
					text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.PublicKey})
					return a.show(k.PublicKey, "%s", strings.TrimSuffix(string(text), "\n"))
				}
				return fmt.Errorf("there is no version %d of %s", version, key)
			})
		},
	}
}

func (a *app) suspendCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "suspend KEY VERSION", Short: "Stop every use of a key version at once", Args: arguments(keyArg, numberArg),
		Long: `Stop every use of a key version at once, on every node within a second. One
officer is enough; to let it go on, officers approve key.activate.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, version := versionArgs(args)
			return a.with(func(c *client.Client) error {
				what := fmt.Sprintf("Stop every use of version %d of %s? Only an approved key.activate lets it go on.", version, key)
				if err := a.ask(cmd, yes, "suspend", what); err != nil {
					return err
				}
				k, err := c.SuspendKey(cmd.Context(), a.issuer, key, version)
				if err != nil {
					return err
				}
				return a.show(k, "%s is %s", k.Name, k.State)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// incident is what "key compromise" found and did.
type incident struct {
	Radius      api.Radius   `json:"radius"`
	Suspended   bool         `json:"suspended"`
	Proposal    api.Proposal `json:"proposal"`
	Replacement string       `json:"replacement"` // the command that proposes it
}

func (a *app) compromiseCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "compromise KEY VERSION", Short: "A key version may be known to others: suspend it, see what hangs on it, propose the rest", Args: arguments(keyArg, numberArg),
		Long: `For a key version that somebody else may know. It suspends the version at once,
lists what hangs on it (cards, channels, packages), proposes key.compromise for
other officers to approve, and says how to propose the version that replaces it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, version := versionArgs(args)
			return a.with(func(c *client.Client) error {
				r, err := c.Radius(cmd.Context(), a.issuer, key, version)
				if err != nil {
					return err
				}
				what := fmt.Sprintf("On %s hang %s, %s and %s.\nThis will suspend it now and propose that it is compromised.\n", plain(r.Key.Name),
					count(r.Cards, "card"), count(int64(r.Channels), "open channel"), count(r.Packages, "open package"))
				if err := a.confirm(cmd, yes, "compromise", what); err != nil {
					return err
				}
				return a.compromise(cmd.Context(), c, key, version, r)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) compromise(ctx context.Context, c *client.Client, key string, version int, r api.Radius) error {
	out := incident{Radius: r}
	if r.Key.State == "active" {
		k, err := c.SuspendKey(ctx, a.issuer, key, version)
		if err != nil {
			return err
		}
		out.Radius.Key, out.Suspended = k, true
	}
	var err error
	out.Proposal, err = c.Propose(ctx, api.Propose{Issuer: a.issuer, Operation: approval.KeyCompromise, Object: r.Key.Name, LifeSeconds: 24 * 3600})
	if err != nil {
		return fmt.Errorf("%s is suspended, but the proposal failed: %w", r.Key.Name, err)
	}
	out.Replacement = fmt.Sprintf("cardkms approval propose %s issuers/%s/keys/%s/versions/%d usage=%s algorithm=%s cryptoperiod_days=365",
		approval.KeyCreate, quoted(a.issuer), quoted(key), r.Next, quoted(r.Key.Usage), quoted(r.Key.Algorithm))
	last := "then key.activate it, plan how the cards are reached (" + approval.KeyPlanMove + "), and move them"
	if len(r.Key.PublicKey) > 0 {
		last = "then key.activate it, have it certified (cardkms key public), and register the card profiles that have its certificate"
	} else {
		out.Replacement += fmt.Sprintf(" card_algorithm=%s diversification=%s kvn=KVN", quoted(r.Key.CardAlgorithm), quoted(r.Key.Diversification))
	}
	if r.Key.Token != "" {
		out.Replacement += " token=" + quoted(r.Key.Token)
	}
	lines := []string{
		fmt.Sprintf("%s: %s, %s, %s", plain(r.Key.Name), count(r.Cards, "card"), count(int64(r.Channels), "open channel"), count(r.Packages, "open package")),
		fmt.Sprintf("suspended: %v", out.Suspended),
		"proposed: " + plain(out.Proposal.ID) + " (other officers: cardkms approval approve " + plain(out.Proposal.ID) + ")",
		"replacement: " + out.Replacement,
		last,
	}
	return a.show(out, "%s", strings.Join(lines, "\n"))
}
