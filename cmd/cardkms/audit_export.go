package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"cardkms/api/client"
	"cardkms/audit/tiles"
)

func (a *app) exportCommand() *cobra.Command {
	var f trust
	var after string
	c := &cobra.Command{
		Use: "export DIR --log-key FILE", Short: "Write the log as a directory of files, or bring one up to date, and verify it",
		Long: `Write the log as a directory of plain files in the layout of c2sp.org/tlog-tiles,
and verify what was written. A directory that is there is continued: an export
that broke off, or one of the same log when it was shorter.

With --after, DIR becomes the next segment: it starts with the entries that the
segment in the directory after --after may lack, and "verify" takes both.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policy()
			if err != nil {
				return err
			}
			if err := exportable(args[0]); err != nil {
				return err
			}
			return a.with(func(c *client.Client) error { return a.export(cmd.Context(), c, p, args[0], after) })
		},
	}
	f.flags(c)
	c.Flags().StringVar(&after, "after", "", "`DIR` with the segment before")
	return c
}

// exportable refuses a directory that holds other things than an exported log.
func exportable(dir string) error {
	have, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range have {
		if name := e.Name(); err == nil && name != "checkpoint" && name != "tile" && !strings.HasPrefix(name, ".") {
			err = errUsage{fmt.Errorf("%s holds %q, which is of no exported log; name a directory of its own", dir, name)}
		}
	}
	return err
}

func (a *app) export(ctx context.Context, c *client.Client, p tiles.Policy, dir, after string) error {
	msg, cp, err := checkpointOf(ctx, c, p)
	if err != nil {
		return negative(err)
	}
	src := tiles.Source{
		Checkpoint: msg,
		Entries:    func(from int64) iter.Seq2[[]byte, error] { return entries(ctx, c, from, cp.Size) },
	}
	verify := []string{dir}
	if after != "" {
		before := tiles.Dir{Name: after, FS: os.DirFS(after)}
		old, _, err := before.Checkpoint(p.Log)
		if err != nil {
			return negative(err)
		}
		src.First = tiles.Whole(old.Size)
		src.LeafHashes = func(from int64) iter.Seq2[tlog.Hash, error] { return before.LeafHashes(from, src.First) }
		verify = []string{after, dir}
		p.From = src.First // what is older is in earlier segments
	}
	if _, err := tiles.Write(dir, p.Log, src); err != nil {
		return negative(err)
	}
	return a.verifyDirs(p, verify)
}
