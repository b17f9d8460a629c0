package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the manual from the commands themselves, so that it cannot say
// something else than they do.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write a manual page for each command into a directory", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are public
				return err
			}
			root.DisableAutoGenTag = true // the same pages from the same program
			return doc.GenManTree(root, &doc.GenManHeader{Title: "CARDKMSD", Section: "1", Source: "cardkms"}, args[0])
		},
	}
}
