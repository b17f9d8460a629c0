package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cardkms/audit/durable"
	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
)

func ceremonyCommand() *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "Key ceremonies: token, service keys, first officers, master keys"}
	c.AddCommand(ceremonyRunCommand())
	return c
}

func ceremonyRunCommand() *cobra.Command {
	var dry, yes bool
	c := &cobra.Command{
		Use:   "run FILE",
		Short: "Carry out a key ceremony, as one reviewed file says",
		Long: `Carry out the steps of FILE, at the console of the machine with the token, while no
server runs on the same data directory. --dry-run says in plain words what would
happen and checks everything that can be checked without doing it.

A ceremony that broke off is run again: steps that are done say so. Once there are
officers, as many of them as the default policy says must have signed the file
("cardkms ceremony approve"). Each component is entered by its custodian: all but
the last on days of their own by "cardkmsd component enter", the last one here; or,
if the file says together: true, all of them here, one after the other. The screen
shows no component, only its key check value (KCV). If standard input is not a
terminal, components are read from it, one to a line.

What was done is in the audit log, and in FILE.record, signed by the log's key. The
format of FILE stands in deploy/CEREMONY.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newConductor(cmd, args[0])
			if err != nil {
				return err
			}
			defer c.close()
			if c.dry = dry; dry {
				return c.dryRun(cmd.Context())
			}
			return c.run(cmd.Context(), yes)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say and check, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// conductor carries out one ceremony.
type conductor struct {
	f      *ceremony.File
	path   string // of the file
	by     string
	people *prompter
	out    io.Writer
	record *ceremony.Record
	kept   ceremony.Keeper
	node   *node // once the configuration is there
	made   *serviceKeys
	dry    bool
	ended  bool // before this run
}

// facts are what a step found or made, for the record.
type facts = map[string]string

// step is one step of a ceremony.
type step struct {
	name  string
	words string // what it does
	// check finds what can be wrong without doing the step; may be nil.
	check func(context.Context) error
	// done reports whether what the step makes is there.
	done func(context.Context) (facts, bool, error)
	do   func(context.Context) (facts, error)
}

// crashAt is where a test has the program die; it does nothing otherwise.
var crashAt = func(string) {}

func newConductor(cmd *cobra.Command, path string) (*conductor, error) {
	// A core dump would hold components.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return nil, fmt.Errorf("forbidding core dumps: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := ceremony.Parse(b)
	if err != nil {
		return nil, err
	}
	c := &conductor{f: f, path: path, by: operator(), out: cmd.OutOrStdout(), kept: ceremony.Keeper{Dir: path + ".components"}}
	c.people = newPrompter(cmd)
	if c.record, err = ceremony.OpenRecord(c.journal(), f); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *conductor) journal() string { return c.path + ".journal" }

// beside resolves a path of the file.
func (c *conductor) beside(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(c.path), p)
}

func (c *conductor) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c *conductor) close() {
	if c.node != nil {
		c.node.close()
	}
}

func (c *conductor) run(ctx context.Context, yes bool) error {
	c.say("%s\n  file %s, SHA-256 %s\n  present: %s", c.f.Title, c.path, c.f.Hex(), strings.Join(c.f.Present, ", "))
	steps := append(c.tokenSteps(), c.nodeSteps()...)
	for i, s := range steps {
		c.say("  %d. %s", i+1, s.words)
	}
	if !yes {
		if err := c.people.confirm("run"); err != nil {
			return err
		}
	}
	if err := c.take(ctx, c.tokenSteps(), 1, len(steps)); err != nil {
		return err
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	if err := c.take(ctx, c.nodeSteps(), 1+len(c.tokenSteps()), len(steps)); err != nil {
		return err
	}
	return c.end(ctx)
}

// take takes steps in order. What is true if the process dies after a step and before
// the journal has it: the next run finds the step done and says so.
func (c *conductor) take(ctx context.Context, steps []step, first, of int) error {
	for i, s := range steps {
		c.say("%d/%d %s", first+i, of, s.words)
		// What is done is not checked again: a later step may have taken away what it needed.
		found, done, err := s.done(ctx)
		if err == nil && !done && c.ended {
			err = errEnded
		}
		if err == nil && !done && s.check != nil {
			err = s.check(ctx)
		}
		if err == nil && !done {
			crashAt("before " + s.name)
			found, err = s.do(ctx)
			crashAt("after " + s.name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := c.write(s.name, found, done); err != nil {
			return err
		}
	}
	return nil
}

var errEnded = errors.New("this ceremony ended, and what it made is not there any more; what is wanted now needs a new file")

// write tells of a step and has the journal keep it.
func (c *conductor) write(name string, f facts, found bool) error {
	said := "done"
	if found {
		said = "done already"
	}
	c.say("    %s%s", said, inLine(f))
	if c.record.Has(name) {
		return nil
	}
	c.record.Steps = append(c.record.Steps, ceremony.Step{Step: name, By: c.by, At: time.Now().UTC().Round(time.Second), Found: found, Facts: f})
	return c.record.Save(c.journal())
}

// begin opens the service that the configuration describes and has it let the ceremony
// go on.
func (c *conductor) begin(ctx context.Context) error {
	if err := c.open(ctx); err != nil {
		return err
	}
	signatures, err := readApprovals(c.path + ".approvals")
	if err != nil {
		return err
	}
	c.record.Token = c.node.token.Description()
	begun, err := c.node.service.BeginCeremony(ctx, c.by, kms.NewCeremony{Digest: c.f.Digest, Signatures: signatures, Detail: facts{
		"title": plain(c.f.Title), "present": strings.Join(c.f.Present, "+"), "token": plain(c.record.Token),
	}})
	if fault.CodeOf(err) == fault.ApprovalRequired {
		return fmt.Errorf("%w\nhint: officers read %s and run \"cardkms ceremony approve %s\"", err, c.path, c.path)
	}
	c.record.Officers, c.ended = begun.Officers, begun.Ended
	return err
}

// open opens the node, and compares its configuration with what was made before.
func (c *conductor) open(ctx context.Context) error {
	cfg, err := load(c.beside(c.f.Configuration))
	if errors.Is(err, fs.ErrNotExist) && c.made != nil {
		return fmt.Errorf("there is no configuration yet: write %s with the lines of %s, give auditors the log's verifier key, and run this again", c.f.Configuration, c.lines())
	}
	if err != nil {
		return err
	}
	if c.made != nil {
		if err := c.made.agree(c.f, cfg); err != nil {
			return err
		}
	}
	c.node, err = open(ctx, cfg, slog.New(slog.DiscardHandler))
	return err
}

// end logs the record, signs it and destroys what the ceremony needed. If the process
// dies in between, the next run ends the ceremony once more.
func (c *conductor) end(ctx context.Context) error {
	record := c.path + ".record"
	if _, err := os.Stat(record); err == nil && c.ended {
		c.say("The ceremony ended before; its record is %s.", record)
		return c.cleanUp(ctx)
	}
	text, err := c.record.Text()
	if err != nil {
		return err
	}
	crashAt("before end")
	signed, err := c.node.service.EndCeremony(ctx, c.by, c.f.Hex(), text)
	if err != nil {
		return err
	}
	crashAt("ended")
	if err := durable.Replace(record, signed, 0o644); err != nil {
		return err
	}
	crashAt("after end")
	c.say("Done. The record is %s, signed by the log's key.", record)
	return c.cleanUp(ctx)
}

func (c *conductor) cleanUp(ctx context.Context) error {
	if c.hasComponents() {
		if err := c.node.token.DestroyExchange(ctx, c.f.PairLabel()); err != nil {
			return fmt.Errorf("destroying the pair for components: %w", err)
		}
		if err := os.RemoveAll(c.kept.Dir); err != nil {
			return err
		}
	}
	if err := os.Remove(c.journal()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// dryRun says what a run would do, and checks what can be checked.
func (c *conductor) dryRun(ctx context.Context) error {
	c.say("%s\n  file %s, SHA-256 %s\n  Nothing is changed.", c.f.Title, c.path, c.f.Hex())
	n, wrong := 0, 0
	look := func(steps []step, reachable bool) {
		for _, s := range steps {
			n++
			c.say("%d. %s", n, s.words)
			if !reachable {
				c.say("    would be done; it cannot be looked at before the steps above are done")
				continue
			}
			err := error(nil)
			if s.check != nil {
				err = s.check(ctx)
			}
			found, done := facts(nil), false
			if err == nil {
				found, done, err = s.done(ctx)
			}
			switch {
			case err != nil:
				wrong++
				c.say("    WRONG: %v", err)
			case done:
				c.say("    done already%s", inLine(found))
			default:
				c.say("    would be done")
			}
		}
	}
	look(c.tokenSteps(), true)
	opened := c.openForLooking(ctx)
	if opened != nil && !errors.Is(opened, errNotYet) {
		wrong++
		c.say("The service cannot be opened: %v", opened)
	}
	look(c.nodeSteps(), opened == nil)
	if opened == nil {
		if err := c.lookAtApprovals(ctx); err != nil {
			c.say("Officers: %v", err)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d steps would fail", wrong, n)
	}
	return nil
}

// lookAtApprovals says what is missing of the officers' signatures, which come after
// the dry run.
func (c *conductor) lookAtApprovals(ctx context.Context) error {
	signatures, err := readApprovals(c.path + ".approvals")
	if err != nil {
		return err
	}
	return c.node.service.CheckCeremony(ctx, kms.NewCeremony{Digest: c.f.Digest, Signatures: signatures})
}

var errNotYet = errors.New("the service's database is not there yet")

// openForLooking opens the service only if it was opened before: else that would make
// its database.
func (c *conductor) openForLooking(ctx context.Context) error {
	cfg, err := load(c.beside(c.f.Configuration))
	if errors.Is(err, fs.ErrNotExist) {
		return errNotYet
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.path(cfg.Data), "cardkms.db")); err != nil {
		return errNotYet
	}
	return c.open(ctx)
}

// readApprovals reads the officers' signatures: lines of a name, a space and base64.
func readApprovals(path string) (map[string][]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	out := map[string][]byte{}
	for line := range bytes.Lines(b) {
		name, text, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		signature, derr := base64.StdEncoding.DecodeString(text)
		if derr != nil || name == "" {
			return nil, fmt.Errorf("%s: a line is a name, a space and a signature in base64", path)
		}
		out[name] = signature
	}
	return out, err
}
