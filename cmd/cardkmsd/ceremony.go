package main

import (
	"context"
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

	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/secret"
)

func ceremonyCommand() *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "Key ceremonies: token, service keys, first officers, master keys"}
	c.AddCommand(ceremonyRunCommand(), ceremonyAbandonCommand())
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

A ceremony that broke off is run again: what this very file made says so, and what
another one made is refused. As many officers as the strictest of the policies
default, key.create, key.activate and profile.register says must have signed the file
("cardkms ceremony approve"); where it makes the first officers, as many of these as
it says. That is looked at before anything is done to a token. Each component is
entered by its custodian: all but the last on days of their own by "cardkmsd
component enter", the last one here; or, if the file says together: true, all of them
here, one after the other. The screen shows no component, only its key check value
(KCV). If standard input is not a terminal, components are read from it, one to a
line.

What was done is in the audit log, and in FILE.record, signed by the log's key. The
format of FILE stands in deploy/CEREMONY.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openConductor(cmd, args[0])
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
	f       *ceremony.File
	path    string // of the file
	dir     string // that its paths are relative to
	by      string
	people  *prompter
	out     io.Writer
	record  *ceremony.Record
	kept    ceremony.Keeper
	secrets map[string]secret.Bytes // see config
	node    *node                   // once the configuration is there
	made    *serviceKeys
	now     map[string]seen // what this run saw of each step
	dry     bool
	ended   bool // before this run
}

// facts are what a step found or made, for the record.
type facts = map[string]string

// seen is what a run saw of a step.
type seen struct {
	facts facts
	found bool // it was done already
}

// step is one step of a ceremony.
type step struct {
	name  string
	words string // what it does
	// check finds what can be wrong without doing the step; may be nil.
	check func(context.Context) error
	// done reports whether what the step makes is there, made by this ceremony.
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
	dir, err := filepath.Abs(filepath.Dir(path))
	return &conductor{
		f: f, path: path, dir: dir, by: operator(), people: newPrompter(cmd), out: cmd.OutOrStdout(),
		kept: ceremony.Keeper{Dir: path + ".components"}, secrets: map[string]secret.Bytes{}, now: map[string]seen{},
	}, err
}

// openConductor also reads what an earlier run left beside the file. What is left of
// another version of the file is refused: somebody would wait for it in vain.
func openConductor(cmd *cobra.Command, path string) (*conductor, error) {
	c, err := newConductor(cmd, path)
	if err != nil {
		return nil, err
	}
	others, err := c.kept.Ceremonies()
	if err != nil {
		return nil, err
	}
	for _, digest := range others {
		if digest != c.f.Hex() {
			err = fmt.Errorf("%s holds components of another version of the file (SHA-256 %s); put that one back, or abandon it", c.kept.Dir, digest)
		}
	}
	if err == nil {
		c.record, err = ceremony.OpenRecord(c.journal(), c.f)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: \"cardkmsd ceremony abandon %s\" removes what was kept", err, path)
	}
	return c, nil
}

func (c *conductor) journal() string { return c.path + ".journal" }

// beside resolves a path of the file.
func (c *conductor) beside(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

func (c *conductor) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c *conductor) close() {
	if c.node != nil {
		c.node.close()
		c.node = nil
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
	if err := c.approved(ctx); err != nil {
		return err
	}
	if err := c.take(ctx, c.tokenSteps(), 1, len(steps)); err != nil {
		return err
	}
	begun, err := c.begin(ctx)
	if err != nil {
		return err
	}
	if err := c.tell(ctx, begun); err != nil {
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

// write tells of a step, and has the journal keep a token step: of the others the
// database tells.
func (c *conductor) write(name string, f facts, found bool) error {
	said := "done"
	if found {
		said = "done already"
	}
	c.say("    %s%s", said, inLine(f))
	c.now[name] = seen{f, found}
	if name != ceremony.TokenStep && name != ceremony.ServiceKeysStep {
		return nil
	}
	if s := c.record.Find(name); s != nil {
		s.Facts = f
	} else {
		c.record.Steps = append(c.record.Steps, ceremony.Step{Step: name, By: c.by, At: time.Now().UTC().Round(time.Second), Found: found, Facts: f})
	}
	return c.record.Save(c.journal())
}

// begin opens the service that the configuration describes and has it let the ceremony
// go on.
func (c *conductor) begin(ctx context.Context) (begun kms.Ceremony, err error) {
	if err := c.open(ctx); err != nil {
		return begun, err
	}
	signatures, err := c.lookAtApprovals(ctx)
	if err != nil {
		return begun, err
	}
	c.record.Token = c.node.token.Description()
	begun, err = c.node.service.BeginCeremony(ctx, c.by, kms.NewCeremony{Digest: c.f.Digest, Signatures: signatures, Detail: facts{
		"title": plain(c.f.Title), "present": strings.Join(c.f.Present, "+"), "token": plain(c.record.Token),
	}})
	c.ended = begun.Ended
	return begun, err
}

// open opens the node, and compares its configuration with what was made before.
func (c *conductor) open(ctx context.Context) error {
	cfg, err := c.configuration()
	if err == nil && c.made != nil {
		err = c.made.agree(c.f, cfg)
	}
	if err != nil {
		return err
	}
	if c.node, err = open(ctx, cfg, slog.New(slog.DiscardHandler)); err == nil {
		c.node.tokens.Tend(ctx)
	}
	return err
}

// configuration loads the service's configuration. The first ceremony stops here once:
// the configuration has to name the keys that it made.
func (c *conductor) configuration() (*config, error) {
	cfg, err := load(c.beside(c.f.Configuration))
	switch {
	case err == nil:
		cfg.secrets = c.secrets
		return cfg, nil
	case c.made == nil:
		return nil, err
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no configuration yet: write %s with the lines of %s, give auditors the log's verifier key, and run this again", c.f.Configuration, c.lines())
	}
	return nil, fmt.Errorf("%w\nhint: the configuration needs the lines of %s; give auditors the log's verifier key, and run this again", err, c.lines())
}
