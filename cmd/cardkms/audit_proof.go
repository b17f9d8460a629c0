package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"cardkms/api/client"
	"cardkms/audit"
	"cardkms/audit/tiles"
)

// entrySuffix names the file of an entry after that of its proof.
const entrySuffix = ".entry"

func (a *app) proveCommand() *cobra.Command {
	var f trust
	var out string
	c := &cobra.Command{
		Use: "prove ENTRY --log-key FILE", Short: "Write the proof that the log holds an entry, for somebody without the log",
		Long: `Fetch an entry, the newest checkpoint and the proof that its tree holds the
entry; check them; and write the proof as FILE in the format c2sp.org/tlog-proof,
and the entry beside it as FILE.entry. "check-proof" verifies the two offline.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := sequence(args[0])
			if err != nil {
				return err
			}
			p, err := f.policy()
			if err != nil {
				return err
			}
			if out == "" {
				out = fmt.Sprintf("entry-%d.tlog-proof", seq)
			}
			return a.with(func(c *client.Client) error { return a.prove(cmd.Context(), c, p, seq, out) })
		},
	}
	f.flags(c)
	c.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write (default entry-ENTRY.tlog-proof)")
	return c
}

func (a *app) prove(ctx context.Context, c *client.Client, p tiles.Policy, seq int64, out string) error {
	encoding, err := entry(ctx, c, seq)
	if err != nil {
		return err
	}
	// The checkpoint comes second, so that it covers an entry that was just written.
	msg, cp, err := checkpointOf(ctx, c, p)
	if err != nil {
		return negative(err)
	}
	hashes, err := c.AuditProof(ctx, seq, cp.Size)
	if err != nil {
		return err
	}
	proof := audit.Proof{Index: seq, Checkpoint: msg}
	for _, h := range hashes.Hashes {
		if len(h) != tlog.HashSize {
			return errors.New("the service answers with a hash of another length")
		}
		proof.Hashes = append(proof.Hashes, tlog.Hash(h))
	}
	if _, _, err := proof.Check(encoding, p.Log.Name(), p.Log, p.Witnesses...); err != nil {
		return negative(err)
	}
	if err := errors.Join(os.WriteFile(out+entrySuffix, encoding, 0o600), os.WriteFile(out, proof.Format(), 0o600)); err != nil {
		return err
	}
	return a.show(map[string]any{"proof": out, "entry": out + entrySuffix, "sequence": seq, "size": cp.Size},
		"wrote %s and %s: entry %d in the log of %d entries", out, out+entrySuffix, seq, cp.Size)
}

func (a *app) checkProofCommand() *cobra.Command {
	var f trust
	var file string
	c := &cobra.Command{
		Use: "check-proof FILE --log-key FILE", Short: "Check offline that the log held an entry",
		Long: `Check a proof that "prove" wrote and the entry beside it, FILE.entry: that the log
signed a tree that holds exactly this entry at this place, and that each witness
cosigned it. Nothing is asked of any service. The entry is shown.`,
		Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := f.policy()
			if err != nil {
				return err
			}
			if file == "" {
				file = args[0] + entrySuffix
			}
			return a.checkProof(p, args[0], file)
		},
	}
	f.flags(c)
	c.Flags().StringVar(&file, "entry", "", "`FILE` with the entry (default FILE.entry)")
	return c
}

func (a *app) checkProof(p tiles.Policy, file, entryFile string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	encoding, err := os.ReadFile(entryFile)
	if err != nil {
		return err
	}
	proof, err := audit.ParseProof(text)
	if err != nil {
		return negative(err)
	}
	e, cp, err := proof.Check(encoding, p.Log.Name(), p.Log, p.Witnesses...)
	if err != nil {
		return negative(err)
	}
	fields, shown := fieldsOf(encoding)
	summary := fmt.Sprintf("verified: entry %d is in the log %s of %d entries", e.Sequence, cp.Origin, cp.Size)
	for _, w := range p.Witnesses {
		at, err := audit.CosignatureTime(proof.Checkpoint, w)
		if err != nil {
			return negative(err)
		}
		summary += fmt.Sprintf("\ncosigned: by %s at %s", w.Name(), stamp(at))
	}
	return a.show(fields, "%s\n\n%s", summary, shown)
}
