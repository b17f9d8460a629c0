package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api/client"
	"cardkms/audit"
	"cardkms/audit/tiles"
)

func (a *app) verifyCommand() *cobra.Command {
	var f trust
	var from int64
	c := &cobra.Command{
		Use:   "verify [DIR...] --log-key FILE",
		Short: "Check that the log's entries are exactly those that its key signed",
		Long: `Check that the log's entries are exactly those that its key signed.

Without DIR, fetch the newest checkpoint and every entry from the service. With
directories that "export" made, read those and speak to nobody; several are
segments of one log, and must have every entry together, or every entry from
--from on. The signature is checked with the log's verifier key, the Merkle tree
is computed again from the entries, and the two are compared.

The verifier key is what the auditor was given when the log began; it never comes
from the service, and not from the directory.

Then every operation that needs dual control is judged by the entries before it:
each must have enough signatures of officers over its proposal. So are key ceremonies
and what they made, restorations of an older database, and the destruction of keys,
which an approved proposal must have ordered. All of them rest
on the officers that the log begins with: compare their names and fingerprints
with the minutes of the day on which they were named ("ssh-keygen -l").

Exit status 3 means that the log is not what its key signed, or that an operation
lacks its approvals; the message names the entry, or the file, that is wrong.`,
		RunE: func(cmd *cobra.Command, dirs []string) error {
			p, err := f.policy()
			if err != nil {
				return err
			}
			p.From = from
			if len(dirs) > 0 {
				return a.verifyDirs(p, dirs)
			}
			if from != 0 {
				return errUsage{errors.New("--from is for directories")}
			}
			return a.with(func(c *client.Client) error { return a.verifyService(cmd.Context(), c, p) })
		},
	}
	f.flags(c)
	c.Flags().Int64Var(&from, "from", 0, "first `ENTRY` that must be there; of those before it only the hashes are proven")
	return c
}

func (a *app) verifyDirs(p tiles.Policy, names []string) error {
	var dirs []tiles.Dir
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no directory", name)
		}
		dirs = append(dirs, tiles.Dir{Name: name, FS: os.DirFS(name)})
	}
	var js judge
	p.Each = js.add
	report, err := tiles.Verify(p, dirs...)
	if err != nil {
		return negative(err)
	}
	return a.showReport(p, report, &js)
}

func (a *app) verifyService(ctx context.Context, c *client.Client, p tiles.Policy) error {
	msg, cp, err := checkpointOf(ctx, c, p)
	if err != nil {
		return negative(err)
	}
	var report tiles.Report
	var js judge
	for _, w := range p.Witnesses {
		at, err := audit.CosignatureTime(msg, w)
		if err != nil {
			return negative(err)
		}
		report.Cosigned = append(report.Cosigned, at)
	}
	report.Report, err = audit.VerifyLog(msg, p.Log, audit.Log{Origin: cp.Origin, Entries: js.watch(entries(ctx, c, 0, cp.Size))})
	if err != nil {
		return negative(err)
	}
	return a.showReport(p, report, &js)
}

// verdict is a report as scripts read it.
type verdict struct {
	Origin         string        `json:"origin"`
	Size           int64         `json:"size"`
	Root           string        `json:"root"`
	From           int64         `json:"from"`
	Entries        int64         `json:"entries"`
	First          time.Time     `json:"first,omitzero"`
	Last           time.Time     `json:"last,omitzero"`
	ClockSteps     int64         `json:"clockSteps"`
	FirstClockStep int64         `json:"firstClockStep,omitempty"`
	Cosignatures   []cosignature `json:"cosignatures"`
	// Approved counts the operations under dual control that are proven; absent if
	// the log was not read from its first entry, without which nothing is.
	Approved *int `json:"approved,omitempty"`
	// Signed counts the ceremonies and restorations that enough officers signed.
	Signed int `json:"signed,omitempty"`
	// FirstOfficers are whom dual control began with, and FirstK how many of them
	// approve: what every approval rests on, and an auditor compares with minutes.
	FirstOfficers []firstOfficer `json:"firstOfficers,omitempty"`
	FirstK        int            `json:"firstK,omitempty"`
}

type firstOfficer struct {
	Name        string `json:"name"`
	Identity    string `json:"identity"`
	Fingerprint string `json:"fingerprint"`
}

type cosignature struct {
	Witness string    `json:"witness"`
	Time    time.Time `json:"time"`
}

func (a *app) showReport(p tiles.Policy, r tiles.Report, js *judge) error {
	v := verdict{
		Origin: r.Checkpoint.Origin, Size: r.Checkpoint.Size, Root: base64.StdEncoding.EncodeToString(r.Checkpoint.Root[:]),
		From: r.From, Entries: r.Entries, First: r.First, Last: r.Last,
		ClockSteps: r.ClockSteps, FirstClockStep: r.FirstClockStep, Cosignatures: []cosignature{},
	}
	for i, at := range r.Cosigned {
		v.Cosignatures = append(v.Cosignatures, cosignature{p.Witnesses[i].Name(), at})
	}
	if p.From == 0 {
		if err := js.verdict(); err != nil {
			return err
		}
		v.Approved, v.Signed, v.FirstK = &js.replay.Executed, js.replay.Signed, js.k
		for _, o := range js.first {
			v.FirstOfficers = append(v.FirstOfficers, firstOfficer{o.Name, o.Identity, fingerprint(o.Public)})
		}
	}
	return a.show(v, "%s", v.text())
}

func (v verdict) text() string {
	text := fmt.Sprintf("verified: %d entries of %s, complete and unchanged\nroot: %s, of %d entries", v.Entries, v.Origin, v.Root, v.Size)
	if v.From > 0 {
		text += fmt.Sprintf("\nnot read: entries 0 to %d; their hashes are proven", v.From-1)
	}
	if v.Entries > 0 {
		text += fmt.Sprintf("\ntime: from %s to %s", stamp(v.First), stamp(v.Last))
	}
	if v.ClockSteps > 0 {
		text += fmt.Sprintf("\nclock: set back %d times, first before entry %d; compare with the operator's records", v.ClockSteps, v.FirstClockStep)
	}
	for _, c := range v.Cosignatures {
		text += fmt.Sprintf("\ncosigned: by %s at %s", c.Witness, stamp(c.Time))
	}
	if v.Approved == nil {
		return text + "\napprovals: not judged; that needs the log from its first entry"
	}
	for _, o := range v.FirstOfficers {
		text += fmt.Sprintf("\nfirst officer: %s  %s  %s", o.Name, o.Fingerprint, o.Identity)
	}
	if v.FirstOfficers != nil {
		text += fmt.Sprintf("\n%d of the first officers must approve; compare them with the minutes", v.FirstK)
	}
	if v.Signed > 0 {
		text += fmt.Sprintf("\nceremonies and restorations: %d, all signed by enough officers", v.Signed)
	}
	return text + fmt.Sprintf("\napprovals: %d executed, all proven", *v.Approved)
}
