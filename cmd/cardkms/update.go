package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/update"
)

type updateFlags struct {
	card, image, key, updateKey, kvn, profile string
	tries                                     int
	wait                                      time.Duration
}

func (a *app) updateCommand() *cobra.Command {
	var f updateFlags
	c := &cobra.Command{
		Use:   "update --card tcp:HOST:PORT --image NAME",
		Short: "Update the operating system of a card, and go on after a power cut",
		Long: `Update the operating system of a card: authenticate, send the encrypted
package, commit, reset, and have the service verify the card's receipt.

When the card's power fails, the command waits for the card, authenticates anew,
and sends only what is missing. Started again after it was stopped itself, it
goes on where the card stands.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error { return a.update(cmd.Context(), c, f) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.card, "card", "", "where the card is: `tcp:HOST:PORT`")
	fl.StringVar(&f.image, "image", "", "`NAME` of a registered image")
	fl.StringVar(&f.key, "key", "isd", "name of the gp-scp03 key")
	fl.StringVar(&f.updateKey, "update-key", "upd", "name of the card-update key; empty under suite 00")
	fl.StringVar(&f.kvn, "update-kvn", "5A", "Key Version Number of the update key on the card")
	fl.StringVar(&f.profile, "card-profile", "", "card profile of the server")
	fl.IntVar(&f.tries, "tries", 10, "how often the card may go away")
	fl.DurationVar(&f.wait, "wait", time.Second, "how long to wait for a card that went away")
	_ = c.MarkFlagRequired("card")
	_ = c.MarkFlagRequired("image")
	return c
}

// job is one update of one card, over as many connections as it takes.
type job struct {
	api       *client.Client
	issuer    string
	flags     updateFlags
	open      api.OpenChannel
	kvn       api.HexByte
	say       func(format string, args ...any)
	bar       io.Writer
	seen      bool   // the card was there once
	committed string // id of the package whose commit the card took
	result    api.Package
	resumed   int
}

func (a *app) update(ctx context.Context, c *client.Client, f updateFlags) error {
	j := &job{api: c, issuer: a.issuer, flags: f, open: api.OpenChannel{Key: f.key, Profile: f.profile}, bar: io.Discard}
	j.say = func(format string, args ...any) { fmt.Fprint(a.err, screen(fmt.Sprintf(format+"\n", args...))) }
	if file, ok := a.err.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		j.bar = a.err
	}
	if f.updateKey != "" {
		if err := j.kvn.UnmarshalText([]byte(f.kvn)); err != nil {
			return errUsage{errors.New("--update-kvn has two hexadecimal digits")}
		}
	}
	for try := 1; ; try++ {
		done, err := j.attempt(ctx)
		if err == nil && done {
			break
		}
		if err != nil && (!interrupted(err) || !j.seen || try >= f.tries) {
			return err
		}
		if err != nil {
			j.say("%v; trying again", err)
			j.resumed++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(f.wait):
		}
	}
	return a.show(j.result, "card %s runs image %s; the service verified its receipt (package %s, %d interruptions)",
		j.result.Card, j.result.Image, j.result.ID, j.resumed)
}

// attempt goes as far as the card's power lasts. It is done when the receipt
// verified; not done without an error means that the card must be reset.
func (j *job) attempt(ctx context.Context) (done bool, err error) {
	cd, err := dialCard(ctx, j.flags.card)
	if err != nil {
		return false, err
	}
	defer cd.close()
	j.seen = true
	if j.committed == "" {
		if err := j.download(ctx, cd); err != nil {
			return false, err
		}
		if j.committed == "" {
			return false, cd.reset()
		}
		j.say("all chunks are on the card and committed; resetting it")
		if err := cd.reset(); err != nil {
			return false, err
		}
	}
	return j.confirm(ctx, cd)
}

// download authenticates, makes or resumes the package, and sends what the card
// lacks. It leaves committed empty when the card needs a reset first.
func (j *job) download(ctx context.Context, cd *card) error {
	l, err := connect(ctx, j.api, j.issuer, cd, j.open)
	if err != nil {
		return err
	}
	defer l.close(ctx)
	j.say("card %s and service have proved themselves to each other", l.kdd)
	p, err := j.create(ctx, l)
	if err != nil || p.ID == "" {
		return err
	}
	missing := p.MissingChunks()
	if p.Resumed {
		j.say("the card goes on with package %s: %d of %d chunks are missing", p.ID, len(missing), p.Chunks)
	} else {
		j.say("package %s: %d chunks of at most %d bytes, encrypted for this card only", p.ID, p.Chunks, p.ChunkSize)
	}
	if err := j.step(ctx, l, p, api.PackageScript{Step: api.StepOpen}, func() {}); err != nil {
		return err
	}
	if err := j.chunks(ctx, l, p, missing); err != nil {
		return err
	}
	if err := j.step(ctx, l, p, api.PackageScript{Step: api.StepCommit}, func() {}); err != nil {
		return err
	}
	j.committed = p.ID
	return nil
}

// create asks for the package. A card that committed one, or runs the image
// already, has gone further than the last run of this command knew.
func (j *job) create(ctx context.Context, l *line) (api.Package, error) {
	status, err := l.raw(ctx, update.GetStatus().Bytes())
	if err != nil {
		return api.Package{}, err
	}
	in := api.CreatePackage{Channel: l.id, Image: j.flags.image, UpdateKey: j.flags.updateKey, KVN: j.kvn, Status: status}
	p, err := j.api.CreatePackage(ctx, j.issuer, in)
	var problem *api.Problem
	if !errors.As(err, &problem) {
		return p, err
	}
	if problem.Code == api.Conflict {
		j.say("the card committed a package before; resetting it")
		return api.Package{}, nil
	}
	if problem.Code != api.VersionMismatch {
		return p, err
	}
	known, cerr := j.api.Card(ctx, j.issuer, l.kdd.String())
	if cerr != nil || known.Package == "" {
		return p, err
	}
	last, cerr := j.api.Package(ctx, j.issuer, known.Package)
	if cerr != nil || last.Image != j.flags.image || last.State != api.PackageOpen {
		return p, err
	}
	j.say("the card seems to run the image already; asking for its receipt")
	j.committed = known.Package
	return api.Package{}, nil
}

// batch is how many chunks one request secures.
const batch = 16

func (j *job) chunks(ctx context.Context, l *line, p api.Package, missing []int) error {
	bar := progressbar.NewOptions(len(missing), progressbar.OptionSetWriter(j.bar), progressbar.OptionSetDescription("chunks"),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(40), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	defer func() { _ = bar.Finish() }()
	for len(missing) > 0 {
		n := min(batch, len(missing))
		if err := j.step(ctx, l, p, api.PackageScript{Step: api.StepChunks, Chunks: missing[:n]}, func() {}); err != nil {
			return err
		}
		_ = bar.Add(n)
		missing = missing[n:]
	}
	return nil
}

func (j *job) step(ctx context.Context, l *line, p api.Package, in api.PackageScript, sent func()) error {
	in.Channel = l.id
	script, err := j.api.PackageScript(ctx, j.issuer, p.ID, in)
	if err != nil {
		return fmt.Errorf("securing %s: %w", in.Step, err)
	}
	answers, err := l.send(ctx, script, sent)
	if err != nil {
		return fmt.Errorf("sending %s: %w", in.Step, err)
	}
	for _, r := range answers {
		if string(r) != string(success) {
			return fmt.Errorf("the card answered %X to %s", r, in.Step)
		}
	}
	return nil
}

// confirm fetches the receipt through a new channel and has it verified.
func (j *job) confirm(ctx context.Context, cd *card) (bool, error) {
	l, err := connect(ctx, j.api, j.issuer, cd, j.open)
	if err != nil {
		return false, err
	}
	defer l.close(ctx)
	receipt, err := l.raw(ctx, update.GetReceipt().Bytes())
	if err != nil {
		return false, err
	}
	if len(receipt) == 2 {
		return false, fmt.Errorf("the card gave no receipt (%X): it judged the image bad and runs the old version", receipt)
	}
	j.result, err = j.api.ConfirmPackage(ctx, j.issuer, j.committed, api.ConfirmPackage{Channel: l.id, Receipt: receipt})
	return err == nil, err
}
