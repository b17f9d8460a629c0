package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

func (a *app) cardCommand() *cobra.Command {
	c := &cobra.Command{Use: "card", Short: "What the service remembers of cards"}
	c.AddCommand(&cobra.Command{
		Use: "show KDD", Short: "Show one card, named by its key diversification data", Args: arguments(kddArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				cd, err := c.Card(cmd.Context(), a.issuer, args[0])
				if err != nil {
					return err
				}
				return a.show(cd, "%s", cardLine(cd))
			})
		},
	}, &cobra.Command{
		Use: "list", Short: "List cards", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all := []api.Card{}
				for p := (api.Page{}); ; {
					l, err := c.Cards(cmd.Context(), a.issuer, p)
					if err != nil {
						return err
					}
					all = append(all, l.Cards...)
					if p.Token = l.NextPageToken; p.Token == "" {
						break
					}
				}
				text := make([]string, len(all))
				for i, cd := range all {
					text[i] = cardLine(cd)
				}
				return a.show(all, "%s", strings.Join(append(text, count(int64(len(all)), "card")), "\n"))
			})
		},
	}, a.moveCommand())
	return c
}

func cardLine(c api.Card) string {
	state := "served"
	if c.Quarantined {
		state = "QUARANTINED"
	}
	return fmt.Sprintf("%s  KVN %s  %s  failed proofs in a row %d  package %s", c.KDD, c.KVN, state, c.Failures, plain(c.Package))
}

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key versions: everything but their values"}
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "List the issuer's key versions", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				keys, err := c.Keys(cmd.Context(), a.issuer)
				if err != nil {
					return err
				}
				text := make([]string, len(keys))
				for i, k := range keys {
					text[i] = fmt.Sprintf("%s  %s  %s  KVN %s  %s  %s", plain(k.Name), plain(k.Usage), plain(k.Algorithm), k.KVN, plain(k.Diversification), plain(k.State))
					if k.Token != "" {
						text[i] += "  token " + plain(k.Token)
					}
				}
				return a.show(keys, "%s", strings.Join(append(text, count(int64(len(keys)), "key version")), "\n"))
			})
		},
	}, a.publicCommand(), a.suspendCommand(), a.compromiseCommand())
	return c
}
