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
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cardkms/cmd/suggest"
	"cardkms/deploy/version"
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

// Exit statuses, the first of those of cardkms.
const (
	exitFailure  = 1
	exitUsage    = 2 // also what the configuration alone decides: another start changes nothing
	exitSealed   = 3 // another start changes nothing or does harm
	exitTryLater = 75
)

// errUsage marks errors of the command line and of the configuration.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

// errFailed ends a command that has said what is wrong already.
var errFailed = errors.New("failed")

// rootCommand returns the program's commands.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "cardkmsd",
		Version: version.String(),
		Short:   "Key management service for smart cards: keys stay in a PKCS#11 token",
		Long: `Key management service for smart cards: keys stay in a PKCS#11 token.

Exit status: 0 done, 1 failure, 2 usage or a wrong configuration, or a file that it
names is missing or wrong, 3 sealed until somebody acts, 75 sealed for now.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(initCommand(), serveCommand(), ceremonyCommand(), componentCommand(), probeCommand(), storeCommand(), restoreCommand(), pruneCommand(), pseudonymCommand(), officersCommand(), manCommand(root))
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			c.RunE = group
		}
	}
	markUsage(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return errUsage{suggest.Flag(cmd, err)} })
	return root
}

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFailed):
		return exitFailure
	}
	fmt.Fprintln(os.Stderr, "cardkmsd:", err)
	var sealed errSealed
	if errors.As(err, &sealed) {
		return sealed.status()
	}
	if errors.As(err, &errUsage{}) || cobraUsage(err) {
		return exitUsage
	}
	return exitFailure
}

// cobraUsage reports the usage errors for which cobra has no type.
func cobraUsage(err error) bool {
	return slices.ContainsFunc([]string{"required flag(s)", "unknown command", "if any flags in the group"},
		func(prefix string) bool { return strings.HasPrefix(err.Error(), prefix) })
}

// markUsage has wrong arguments of a command and of those below it count as usage, and
// names what it takes, where cobra only counts.
func markUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) != nil {
				return errUsage{fmt.Errorf("these arguments do not fit; usage: %s", cmd.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		markUsage(sub)
	}
}

// group is what a command does that only holds others: a mistyped one must not look
// like success.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errUsage{suggest.Command(cmd, args[0])}
	}
	return cmd.Help()
}
