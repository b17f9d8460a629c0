package main

import (
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api/client"
)

func (a *app) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Whether the service can work now, and what is away", Args: exactly(0),
		Long: `Say whether the service can work now, which of its tokens serve, and what is away
that it can do without for a while. A service that was halted says halted: then no key
is used until officers resume it. When it cannot work the answer names the sealed
states, which are pages of deploy/runbooks, and the exit status is 75.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				h, err := c.Ready(cmd.Context())
				if err != nil {
					return err
				}
				lines := []string{h.Status}
				if h.Status == "halted" {
					lines[0] = "halted: officers propose system.resume system/halt"
				}
				for _, t := range h.Tokens {
					lines = append(lines, strings.TrimSuffix("token "+t.Name+": "+t.State+": "+t.Detail, ": "))
				}
				for _, away := range h.Degraded {
					lines = append(lines, away+": away")
				}
				return a.show(h, "%s", strings.Join(lines, "\n"))
			})
		},
	}
}
