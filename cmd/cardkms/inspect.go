package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/audit"
)

func (a *app) cardCommand() *cobra.Command {
	c := &cobra.Command{Use: "card", Short: "What the service remembers of cards"}
	c.AddCommand(&cobra.Command{
		Use: "show KDD", Short: "Show one card, named by its key diversification data", Args: exactly(1),
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
				return a.show(all, "%s", strings.Join(append(text, fmt.Sprintf("%d cards", len(all))), "\n"))
			})
		},
	})
	return c
}

func cardLine(c api.Card) string {
	state := "served"
	if c.Quarantined {
		state = "QUARANTINED"
	}
	return fmt.Sprintf("%s  KVN %s  %s  failed proofs in a row %d  package %s", c.KDD, c.KVN, state, c.Failures, c.Package)
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
					text[i] = fmt.Sprintf("%s  %s  %s  KVN %s  %s  %s", k.Name, k.Usage, k.Algorithm, k.KVN, k.Diversification, k.State)
				}
				return a.show(keys, "%s", strings.Join(append(text, fmt.Sprintf("%d key versions", len(keys))), "\n"))
			})
		},
	})
	return c
}

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The audit log: verify it, read it"}
	c.AddCommand(a.verifyCommand(), a.tailCommand())
	return c
}

func (a *app) tailCommand() *cobra.Command {
	var n int64
	c := &cobra.Command{
		Use: "tail", Short: "Print the newest entries", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				note, err := c.AuditCheckpoint(cmd.Context())
				if err != nil {
					return err
				}
				text, _, _ := strings.Cut(string(note), "\n\n")
				cp, err := audit.ParseCheckpoint(text + "\n")
				if err != nil {
					return err
				}
				for e, err := range entries(cmd.Context(), c, max(0, cp.Size-n), cp.Size) {
					if err != nil {
						return err
					}
					fmt.Fprintln(a.out, string(e))
				}
				return nil
			})
		},
	}
	c.Flags().Int64VarP(&n, "lines", "n", 10, "how many entries")
	return c
}

// entries yields the encodings of the entries [from, to).
func entries(ctx context.Context, c *client.Client, from, to int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for from < to {
			l, err := c.AuditEntries(ctx, from, int(min(500, to-from)))
			if err == nil && len(l.Entries) == 0 {
				err = errors.New("the service does not give all entries that it signed")
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, e := range l.Entries {
				if !yield([]byte(e.Text), nil) {
					return
				}
			}
			from += int64(len(l.Entries))
		}
	}
}

func (a *app) verifyCommand() *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "verify --log-key FILE",
		Short: "Check that the log's entries are exactly those that its key signed",
		Long: `Fetch the newest checkpoint and every entry, check the signature with the log's
verifier key, recompute the Merkle tree from the entries and compare. The
verifier key is what the auditor was given when the log began; it never comes
from the service.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error { return a.verify(cmd.Context(), c, keyFile) })
		},
	}
	c.Flags().StringVar(&keyFile, "log-key", "", "`FILE` with the log's verifier key")
	_ = c.MarkFlagRequired("log-key")
	return c
}

func (a *app) verify(ctx context.Context, c *client.Client, keyFile string) error {
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	v, err := audit.NewVerifier(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	note, err := c.AuditCheckpoint(ctx)
	if err != nil {
		return err
	}
	cp, err := audit.OpenCheckpoint(note, v.Name(), v)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotVerified, err)
	}
	report, err := audit.VerifyLog(note, v, audit.Log{Origin: v.Name(), Entries: entries(ctx, c, 0, cp.Size)})
	var problem *api.Problem
	if errors.As(err, &problem) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotVerified, err)
	}
	return a.show(report, "verified: %d entries, complete and unchanged, from %s to %s", report.Entries, report.First.Format("2006-01-02 15:04:05"), report.Last.Format("2006-01-02 15:04:05"))
}
