package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cardkms/api"
	"cardkms/api/client"
)

// importBatch is how many cards one request takes.
const importBatch = 5000

func (a *app) fleetCommand() *cobra.Command {
	c := &cobra.Command{Use: "fleet", Short: "The registry of all cards"}
	var key string
	var from int64
	imp := &cobra.Command{
		Use: "import FILE", Short: "Take the cards of a factory's file into the registry", Args: exactly(1),
		Long: `Take the cards of a factory's file into the registry: one JSON object a line,

  {"kdd": "00010203040506070809", "kvn": "30", "counter": 12}

with the key diversification data, the Key Version Number of the keys that the
card carries, and its sequence counter if that is known; of an ota key the highest
counter that another system gave to a packet. The whole file is read
and checked before anything is sent; a bad line is named, and nothing happens.
Cards that are in the registry stay as they are, so an import that broke off is
started again; it says from which line.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			total, err := checkFleet(args[0])
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error { return a.importFleet(cmd.Context(), c, args[0], key, from, total) })
		},
	}
	imp.Flags().StringVar(&key, "key", "isd", "name of the gp-scp03, gp-scp02 or ota key")
	imp.Flags().Int64Var(&from, "from-line", 1, "first `LINE` to send, after an import that broke off")
	c.AddCommand(imp, a.fleetMoveCommand())
	return c
}

// eachCard calls f for every line of a fleet file.
func eachCard(file string, f func(line int64, c api.ImportedCard) error) error {
	_, err := eachLine(file, func(line int64, text []byte) error {
		var c api.ImportedCard
		if err := json.Unmarshal(text, &c, json.RejectUnknownMembers(true)); err != nil || len(c.KDD) != 10 || c.KVN == 0 {
			return onLine(file, line, errors.New("not a JSON object with kdd (20 hexadecimal digits), kvn (2) and maybe counter"))
		}
		return f(line, c)
	})
	return err
}

func checkFleet(file string) (lines int64, err error) {
	err = eachCard(file, func(line int64, _ api.ImportedCard) error { lines = line; return nil })
	if err == nil && lines == 0 {
		err = fmt.Errorf("%s holds no card", file)
	}
	return lines, err
}

func (a *app) importFleet(ctx context.Context, c *client.Client, file, key string, from, total int64) error {
	bar := a.progress(total, "cards")
	batch := make([]api.ImportedCard, 0, importBatch)
	var added int64
	sent := from - 1
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		n, err := c.ImportCards(ctx, a.issuer, key, batch)
		if err != nil {
			return fmt.Errorf("after line %d%s: %w", sent, goOn(err, sent+1), err)
		}
		added, sent = added+n, sent+int64(len(batch))
		_ = bar.Add(len(batch))
		batch = batch[:0]
		return nil
	}
	err := eachCard(file, func(line int64, card api.ImportedCard) error {
		if line < from {
			return nil
		}
		if batch = append(batch, card); len(batch) == importBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	return a.show(map[string]int64{"lines": total, "added": added}, "%s in the file, %d of them new to the registry", count(total, "card"), added)
}

// goOn says where an import goes on, if trying again can help.
func goOn(err error, line int64) string {
	if exitCode(err) != exitTryLater {
		return ""
	}
	return fmt.Sprintf(" (go on with --from-line %d)", line)
}

// progress returns a bar where somebody watches.
func (a *app) progress(total int64, what string) *progressbar.ProgressBar {
	out := io.Discard
	if file, ok := a.err.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		out = a.err
	}
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what), progressbar.OptionShowCount())
}
