package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
)

func (a *app) clientCommand() *cobra.Command {
	c := &cobra.Command{Use: "client", Short: "Clients of the service: suspend one, list those that are"}
	c.AddCommand(a.suspendClientCommand(), a.suspendedCommand())
	return c
}

var uriArg = argument{"URI", "the SPIFFE URI of a client certificate, as spiffe://TRUST-DOMAIN/…/role/ROLE/…",
	regexp.MustCompile(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$`).MatchString}

func (a *app) suspendClientCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "suspend URI", Short: "Refuse a client everything at once; officers resume it", Args: arguments(uriArg),
		Long: `Refuse a client everything at once, on every node within a second and on the
connections that it has. One officer is enough. To let it go on, an officer proposes
client.resume, and others approve it. Security officers are not suspended so.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				if err := a.ask(cmd, yes, "suspend", "Refuse everything to "+args[0]+"?"); err != nil {
					return err
				}
				s, err := c.SuspendClient(cmd.Context(), api.SuspendClient{Client: args[0]})
				if err != nil {
					return err
				}
				return a.show(s, "suspended; propose %s clients/%s to let it go on", approval.ClientResume, strings.TrimPrefix(s.Client, "spiffe://"))
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) suspendedCommand() *cobra.Command {
	return &cobra.Command{
		Use: "suspended", Short: "List the clients that are suspended", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all, err := c.Suspensions(cmd.Context())
				if err != nil {
					return err
				}
				lines := []string{count(int64(len(all)), "suspended client")}
				for _, s := range all {
					lines = append(lines, fmt.Sprintf("%s  since %s by %s", s.Client, s.Since.Format(time.RFC3339), s.By))
				}
				return a.show(all, "%s", strings.Join(lines, "\n"))
			})
		},
	}
}
