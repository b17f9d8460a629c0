// Package suggest says which command was meant where a word of a command line is none. It is
// what both programs have in common; each makes a usage error of what it returns.
package suggest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Command refuses a mistyped command of a group, as cobra does at the top.
func Command(group *cobra.Command, typed string) error {
	text := fmt.Sprintf("unknown command %q for %q", typed, group.CommandPath())
	group.SuggestionsMinimumDistance = 2 // cobra sets it at the top only
	if near := group.SuggestionsFor(typed); len(near) > 0 {
		text += "\n\nDid you mean this?\n\t" + strings.Join(near, "\n\t")
	}
	return errors.New(text)
}

// Flag returns what is wrong where a flag is. A group has no flags of its own, so behind a
// mistyped command it is the command.
func Flag(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasParent() && cmd.HasSubCommands() && len(args) > 0 {
		return Command(cmd, args[0])
	}
	return err
}
