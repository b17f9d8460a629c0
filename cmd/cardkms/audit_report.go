package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"cardkms/api/client"
	"cardkms/audit"
	"cardkms/kms/report"
)

func (a *app) reportCommand() *cobra.Command {
	var in struct{ logKey, from, to, output, file string }
	names := make([]string, 0, len(report.Names()))
	for _, n := range report.Names() {
		names = append(names, string(n))
	}
	c := &cobra.Command{
		Use: "report " + strings.Join(names, "|"), Short: "Have the service make a signed report, and read it",
		Long: `Have the service make a report and read it:

  inventory      every key version, compared with what the token holds
  cryptoperiods  when each key version's cryptoperiod ends
  access         who may do what, and who did, in a period
  algorithms     operations by the status of their algorithms, in a period
  daily          what happened in a period, and what a reviewer should look at

A report is JSON, signed as a note by the log's key inside the token. --output
keeps it with its signature; --file reads one that was kept, and asks no service.
With --log-key the signature is checked.`,
		ValidArgs: names,
		Args: func(_ *cobra.Command, args []string) error {
			if (in.file == "") != (len(args) == 1) {
				return errUsage{errors.New("name one report, or --file")}
			}
			if in.file == "" && !slices.Contains(names, args[0]) {
				return errUsage{fmt.Errorf("%q is no report: that is %s", args[0], strings.Join(names, ", "))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.file != "" {
				msg, err := os.ReadFile(in.file)
				if err != nil {
					return err
				}
				return a.readReport(msg, in.logKey)
			}
			from, err1 := instant(in.from)
			to, err2 := instant(in.to)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				return a.fetchReport(cmd.Context(), c, args[0], from, to, in.output, in.logKey)
			})
		},
	}
	c.Flags().StringVar(&in.logKey, "log-key", "", "`FILE` with the log's verifier key")
	c.Flags().StringVar(&in.from, "from", "", "begin of the period, a `TIME` like 2026-11-25 or 2026-11-25T09:00:00Z (default 24 hours before its end)")
	c.Flags().StringVar(&in.to, "to", "", "end of the period (default now)")
	c.Flags().StringVarP(&in.output, "output", "o", "", "`FILE` that keeps the signed report")
	c.Flags().StringVar(&in.file, "file", "", "`FILE` with a signed report to read")
	return c
}

// instant parses a day or a time; empty is the service's default.
func instant(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errUsage{fmt.Errorf("%q is neither a day nor a time", s)}
}

func (a *app) fetchReport(ctx context.Context, c *client.Client, name string, from, to time.Time, output, logKey string) error {
	msg, err := c.Report(ctx, name, from, to)
	if err != nil {
		return err
	}
	if output != "" {
		if err := os.WriteFile(output, msg, 0o600); err != nil {
			return err
		}
	}
	return a.readReport(msg, logKey)
}

// readReport shows a report. Whose signature was checked is said at the end.
func (a *app) readReport(msg []byte, logKey string) error {
	text, _, ok := strings.Cut(string(msg), "\n\n")
	if !ok {
		return fmt.Errorf("%w: the report carries no signature", errNotVerified)
	}
	verdict := "signature not checked (--log-key)"
	if logKey != "" {
		v, err := readVerifier(logKey)
		if err != nil {
			return err
		}
		if _, err := note.Open(msg, note.VerifierList(v)); err != nil || audit.IsCosigner(v) {
			return fmt.Errorf("%w: the report is not signed by the log's key", errNotVerified)
		}
		verdict = "verified: signed by " + v.Name()
	}
	d, err := report.Parse([]byte(text))
	if err != nil {
		return err
	}
	return a.show(d, "%s%s", d.Text(), verdict)
}
