package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"cardkms/api/client"
	"cardkms/audit"
	"cardkms/audit/tiles"
)

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "audit", Short: "The audit log: read it, verify it, take it away",
		Long: `The audit log: read it, verify it, take it away.

"verify DIR" and "check-proof" speak to no service. audit/VERIFY.md shows the
same checks with openssl, sha256sum and awk.`,
	}
	c.AddCommand(a.tailCommand(), a.showCommand(), a.verifyCommand(), a.proveCommand(), a.checkProofCommand(), a.exportCommand(), a.reportCommand())
	return c
}

func (a *app) tailCommand() *cobra.Command {
	var n int64
	c := &cobra.Command{
		Use: "tail", Short: "Print the newest entries", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				_, cp, err := checkpointOf(cmd.Context(), c, tiles.Policy{})
				if err != nil {
					return err
				}
				for e, err := range entries(cmd.Context(), c, max(0, cp.Size-n), cp.Size) {
					if err != nil {
						return err
					}
					fmt.Fprintln(a.out, screen(string(e)))
				}
				return nil
			})
		},
	}
	c.Flags().Int64VarP(&n, "lines", "n", 10, "how many entries")
	return c
}

// trust is whom the auditor trusts: flags of every command that verifies.
type trust struct {
	logKey    string
	witnesses []string
}

func (f *trust) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.logKey, "log-key", "", "`FILE` with the log's verifier key, which never comes from the service")
	c.Flags().StringArrayVar(&f.witnesses, "witness", nil, "`FILE` with the verifier key of a witness that must have cosigned; may be repeated")
	_ = c.MarkFlagRequired("log-key")
}

func (f *trust) policy() (p tiles.Policy, err error) {
	if p.Log, err = readVerifier(f.logKey); err != nil {
		return p, err
	}
	if audit.IsCosigner(p.Log) {
		return p, errUsage{fmt.Errorf("%s holds a witness's key, not a log's", f.logKey)}
	}
	for _, file := range f.witnesses {
		v, err := readVerifier(file)
		if err != nil {
			return p, err
		}
		if !audit.IsCosigner(v) {
			return p, errUsage{fmt.Errorf("%s holds a log's key, not a witness's", file)}
		}
		p.Witnesses = append(p.Witnesses, v)
	}
	return p, nil
}

func readVerifier(file string) (note.Verifier, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	v, err := audit.NewVerifier(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return v, nil
}

// checkpointOf fetches the newest checkpoint, or, for those who trust witnesses,
// the newest one that they cosigned. Without a key it is only read, for commands
// that show and do not verify.
func checkpointOf(ctx context.Context, c *client.Client, p tiles.Policy) ([]byte, audit.Checkpoint, error) {
	fetch := c.AuditCheckpoint
	if len(p.Witnesses) > 0 {
		fetch = c.AuditWitnessed
	}
	msg, err := fetch(ctx)
	if err != nil {
		return nil, audit.Checkpoint{}, err
	}
	if p.Log == nil {
		text, _, _ := strings.Cut(string(msg), "\n\n")
		cp, err := audit.ParseCheckpoint(text + "\n")
		return msg, cp, err
	}
	cp, err := audit.OpenCheckpoint(msg, p.Log.Name(), p.Log)
	return msg, cp, err
}

// entries yields the encodings of the entries [from, to).
func entries(ctx context.Context, c *client.Client, from, to int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for from < to {
			l, err := c.AuditEntries(ctx, from, int(min(500, to-from)))
			if err == nil && len(l.Entries) == 0 {
				err = &audit.EntryError{Sequence: from, Reason: "is signed, and the service does not give it"}
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

// negative marks what a verification found, as against what kept it from looking.
func negative(err error) error {
	var file *tiles.FileError
	var entry *audit.EntryError
	found := errors.As(err, &file) || errors.As(err, &entry)
	for _, e := range []error{audit.ErrRoot, audit.ErrSignature, audit.ErrCheckpoint, audit.ErrCosignature, audit.ErrProof, audit.ErrEntry, tiles.ErrSource} {
		found = found || errors.Is(err, e)
	}
	if !found {
		return err
	}
	return fmt.Errorf("%w: %w", errNotVerified, err)
}

func sequence(arg string) (int64, error) {
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n < 0 {
		return 0, errUsage{fmt.Errorf("%q is not the sequence of an entry", arg)}
	}
	return n, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
