package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cardkms/audit"
	"cardkms/audit/tiles"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/key"
)

var errUnconfirmed = errors.New("not confirmed; nothing was changed")

// confirm has the person at the console type a word.
func confirm(cmd *cobra.Command, yes bool, word string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Type %s to go on: ", word)
	var typed string
	// Fscanln reads no byte behind the line: what was pasted with it belongs to the shell.
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &typed); err != nil || typed != word {
		return errUnconfirmed
	}
	return nil
}

func pruneCommand() *cobra.Command {
	var path string
	var yes bool
	c := &cobra.Command{
		Use:   "prune DIR...",
		Short: "Remove old entries from the database that exported directories hold",
		Long: `Remove the content of entries that are older than 92 days and that the exported
directories hold ("cardkms audit export"). The directories are verified first, all
of them, under the log's key; the hashes of the entries stay, so that every proof
still works. Keep the directories: they are the only place where the entries are.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return prune(cmd, path, args, yes) },
	}
	c.Flags().StringVar(&path, "config", "cardkms.yaml", "configuration `FILE`")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func prune(cmd *cobra.Command, path string, dirs []string, yes bool) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	sealed, err := verifySegments(cfg, dirs, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The directories hold %d entries, complete and unchanged.\nThis will remove from the database those that are older than 92 days.\n", sealed.Size)
	if err := confirm(cmd, yes, "prune"); err != nil {
		return err
	}
	n, err := open(cmd.Context(), cfg, operatorLog(cmd))
	if err != nil {
		return err
	}
	defer n.close()
	first, err := n.service.Prune(cmd.Context(), operator(), sealed)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The database holds the entries from %d on.\n", first)
	return nil
}

// verifySegments checks exported directories under the log's key, and calls each with
// every entry once they are proven; it may be nil.
func verifySegments(cfg *config, dirs []string, each func(encoding []byte)) (audit.Checkpoint, error) {
	v, err := audit.NewVerifier(cfg.Log.Verifier)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("log.verifier: %w", err)
	}
	segments := make([]tiles.Dir, len(dirs))
	for i, d := range dirs {
		segments[i] = tiles.Dir{FS: os.DirFS(d), Name: d}
	}
	r, err := tiles.Verify(tiles.Policy{Log: v, Each: each}, segments...)
	return r.Checkpoint, err
}

func pseudonymCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "pseudonym",
		Short: "Keys that name cards in the log: make the next one, destroy an old one",
		Long: `Cards appear in the log under pseudonyms: MACs under a key of the token. When the
key is destroyed, nobody can say any more which card an entry is about, and every
proof stays what it was. Make a new key each year, name it in the configuration,
and destroy the old one when its time is over.`,
	}
	var path, label string
	var yes bool
	add := func(sub *cobra.Command) {
		sub.Flags().StringVar(&path, "config", "cardkms.yaml", "configuration `FILE`")
		sub.Flags().StringVar(&label, "label", "", "`LABEL` of the key in the token")
		_ = sub.MarkFlagRequired("label")
		c.AddCommand(sub)
	}
	add(&cobra.Command{
		Use: "new", Short: "Make a pseudonym key in the token and print its line for the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !kms.PseudonymLabel(label) {
				return errors.New("the label of a pseudonym key has the word pseudonym in it and no slash, so that no other key is destroyed for one")
			}
			return withNode(cmd, path, func(n *node) error {
				root, err := n.token.Generate(cmd.Context(), label, key.AES256, derive.SessionMAC)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  pseudonym: {label: %s, kcv: \"%s:%s\"}\n", label, root.KCV.Method, root.KCV.Value)
				return nil
			})
		},
	})
	destroy := &cobra.Command{
		Use: "destroy", Short: "Destroy a pseudonym key that is no longer in use, for good", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "This will destroy %s. Nobody will be able to say which cards the entries of its time are about.\n", label)
			if err := confirm(cmd, yes, "destroy"); err != nil {
				return err
			}
			return withNode(cmd, path, func(n *node) error {
				return n.service.DestroyPseudonyms(cmd.Context(), operator(), label, n.token.Destroy)
			})
		},
	}
	destroy.Flags().BoolVar(&yes, "yes", false, "do not ask")
	add(destroy)
	return c
}

// withNode opens what a configuration names for one operation at the console.
func withNode(cmd *cobra.Command, path string, f func(*node) error) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	n, err := open(cmd.Context(), cfg, operatorLog(cmd))
	if err != nil {
		return err
	}
	defer n.close()
	return f(n)
}
