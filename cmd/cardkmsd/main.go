// Command cardkmsd is the server: it reads a configuration, wires, serves and
// stops. It also holds what must happen at the console of the machine with the
// token: making a development set-up, key ceremonies, and probing a token.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// gcPercent trades memory, of which a node needs little, for CPU, of which the
// token needs much.
const gcPercent = 400

func main() {
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// errFailed ends a command that has said what is wrong already.
var errFailed = errors.New("failed")

func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "cardkmsd",
		Short:         "Key management service for smart cards: keys stay in a PKCS#11 token",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(initCommand(), serveCommand(), ceremonyCommand(), componentCommand(), probeCommand(), restoreCommand(), pruneCommand(), pseudonymCommand(), officersCommand())
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			c.RunE = group
		}
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFailed):
		return 1
	}
	fmt.Fprintln(os.Stderr, "cardkmsd:", err)
	return 1
}

// group is what a command does that only holds others: a mistyped one must not look
// like success.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return cmd.Help()
}
