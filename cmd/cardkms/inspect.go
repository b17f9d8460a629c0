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
				rows := make([][]string, len(all))
				for i, cd := range all {
					rows[i] = cardFields(cd)
				}
				return a.show(all, "%s", strings.Join(append(columns(rows), count(int64(len(all)), "card")), "\n"))
			})
		},
	}, a.moveCommand())
	return c
}

func cardLine(c api.Card) string { return strings.Join(cardFields(c), "  ") }

func cardFields(c api.Card) []string {
	kvn, state := c.KVN.String(), "served"
	if c.KVN == 0 { // it never proved itself
		kvn = "-"
	}
	if c.Quarantined {
		state = "QUARANTINED"
	}
	fields := []string{c.KDD.String(), "KVN " + kvn, state, fmt.Sprintf("failed proofs in a row %d", c.Failures)}
	if c.Package != "" {
		fields = append(fields, "package "+plain(c.Package))
	}
	return fields
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
