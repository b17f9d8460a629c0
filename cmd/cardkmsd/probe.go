package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/kms/hsm"
	"cardkms/kms/probe"
	"cardkms/kms/profile"
	"cardkms/kms/secret"
	"cardkms/softhsm"
)

type probeFlags struct {
	config, module, initArgs, label, pin string
	vectors, profiles                    []string
}

func probeCommand() *cobra.Command {
	var f probeFlags
	c := &cobra.Command{
		Use:   "probe [--config FILE | --module M --label L --pin REF] [--profile FILE]... [--vectors FILE...]",
		Short: "Say what PKCS#11 tokens can do, by which plan, and run known answers through them",
		Long: `Say which operations a PKCS#11 token can do, by which plan, and why it cannot do the
others, and run known answers through it: each key of a vector is imported as a
session object, used and destroyed. All of it is found by trying. With --config
each token of a configuration is probed. A server may run on it meanwhile, if the
token takes two programs at once; the probe then shares sessions and time with it,
and its limit of tries if the PIN is wrong. Without --module and --config a
throw-away SoftHSM2 token is made and used.

One line per case says PASS, FAIL or SKIP with the case's id and a reason; the
last line counts them. The exit status is 1 if any case failed. Without
--vectors and --profile the built-in known answers run. Those of a card profile give
one line for the whole of it.`,
		Args: cobra.ArbitraryArgs, // further files of --vectors
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(f.vectors) == 0 {
				return errUsage{errors.New("files are given with --vectors")}
			}
			if f.module == "" && (f.label != "" || f.pin != "" || f.initArgs != "") {
				return errUsage{errors.New("--label, --pin and --init-args name a token of --module")}
			}
			f.vectors = append(f.vectors, args...)
			return runProbe(cmd.Context(), f, cmd.OutOrStdout())
		},
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration `FILE`: probe each of its tokens")
	c.Flags().StringVar(&f.module, "module", "", "`PATH` of the PKCS#11 module (default: a throw-away SoftHSM2 token)")
	c.Flags().StringVar(&f.initArgs, "init-args", "", "reserved string of C_Initialize (NSS softokn)")
	c.Flags().StringVar(&f.label, "label", "", "label of the token")
	c.Flags().StringVar(&f.pin, "pin", "", "reference to its User PIN: file:PATH or env:NAME")
	c.Flags().StringArrayVar(&f.profiles, "profile", nil, "card profile whose known answers are run: `FILE`; may be repeated")
	c.Flags().StringArrayVar(&f.vectors, "vectors", nil, "known answers to run: `FILE`...")
	c.MarkFlagsMutuallyExclusive("config", "module")
	return c
}

func runProbe(ctx context.Context, f probeFlags, out io.Writer) error {
	known, err := f.read()
	if err != nil {
		return errUsage{err}
	}
	if f.config != "" {
		return probeConfigured(ctx, f.config, known, out)
	}
	t, cleanup, err := probeToken(ctx, f)
	if err != nil {
		return err
	}
	defer cleanup()
	return probeOne(ctx, t, known, out)
}

// knownAnswers are what runs through each token, read before the first is opened.
type knownAnswers struct {
	profiles []profile.Profile
	vectors  []vectorFile
}

type vectorFile struct {
	name    string
	content []byte
}

func (f probeFlags) read() (k knownAnswers, err error) {
	if len(f.vectors) == 0 && len(f.profiles) == 0 {
		return knownAnswers{vectors: []vectorFile{{"built in", probe.Standards}}}, nil
	}
	for _, path := range f.profiles {
		b, err := os.ReadFile(path)
		if err != nil {
			return k, err
		}
		p, err := profile.Parse(b)
		if err != nil {
			return k, fmt.Errorf("%s: %w", path, err)
		}
		k.profiles = append(k.profiles, p)
	}
	for _, path := range f.vectors {
		b, err := os.ReadFile(path)
		if err != nil {
			return k, err
		}
		k.vectors = append(k.vectors, vectorFile{path, b})
	}
	return k, nil
}

// probeConfigured probes each token of a configuration. One that does not open keeps no
// other from being probed.
func probeConfigured(ctx context.Context, path string, known knownAnswers, out io.Writer) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	for _, c := range cfg.allTokens() {
		fmt.Fprintf(out, "%s: %q in %s\n", c.field, c.Label, c.Module)
		if c.SoftHSM != "" {
			if err := softhsm.Use(cfg.path(c.SoftHSM)); err != nil {
				return err
			}
		}
		pin, perr := cfg.resolve(c.PIN)
		if perr == nil {
			var t *hsm.Token
			if t, perr = hsm.OpenAny(ctx, hsm.Config{Module: c.Module, InitArgs: c.InitArgs, Label: c.Label, PIN: pin}); perr == nil {
				perr = probeOne(ctx, t, known, out)
				t.Close()
			}
		}
		if perr != nil && !errors.Is(perr, errFailed) {
			fmt.Fprintln(out, "NO:", perr)
		}
		err = errors.Join(err, perr)
	}
	return err
}

// probeOne prints the table of one token and runs known answers through it.
func probeOne(ctx context.Context, t *hsm.Token, known knownAnswers, out io.Writer) (err error) {
	fmt.Fprintln(out, t.Description())
	for _, c := range t.Capabilities() {
		how := c.Plan
		if c.Err != nil {
			how = "NO: " + c.Err.Error()
		}
		fmt.Fprintf(out, "%-48s %s\n", c.Operation, how)
	}
	var results []probe.Result
	add := func(rs ...probe.Result) {
		for _, r := range rs {
			fmt.Fprintln(out, r)
		}
		results = append(results, rs...)
	}
	for _, p := range known.profiles { // which keys a service has is looked at when it registers the profile
		add(probe.Judge("profile/"+p.Name, p.Prove(ctx, t, nil)))
	}
	for _, v := range known.vectors {
		rs, rerr := probe.Run(ctx, t, v.content)
		add(rs...)
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", v.name, rerr))
		}
	}
	passed, failed, skipped := probe.Count(results)
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if err == nil && failed > 0 {
		err = errFailed
	}
	return err
}

// probeToken opens the token to probe: the named one, or a throw-away SoftHSM2
// token in a directory that cleanup removes.
func probeToken(ctx context.Context, f probeFlags) (*hsm.Token, func(), error) {
	if f.module != "" && (f.label != "" || f.pin != "" || !softhsm.Is(f.module)) {
		return namedToken(ctx, f)
	}
	module := f.module
	if module == "" {
		var err error
		if module, err = softhsm.Module(); err != nil {
			return nil, nil, err
		}
	}
	dir, err := os.MkdirTemp("", "cardkms-probe-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	t, err := throwAway(ctx, module, dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return t, func() { t.Close(); remove() }, nil
}

func namedToken(ctx context.Context, f probeFlags) (*hsm.Token, func(), error) {
	if f.label == "" || f.pin == "" {
		return nil, nil, errUsage{errors.New("--module needs --label and --pin, so that the right token is opened with its PIN")}
	}
	pin, err := (&config{dir: "."}).resolve(f.pin)
	if err != nil {
		return nil, nil, err
	}
	t, err := hsm.OpenAny(ctx, hsm.Config{Module: f.module, InitArgs: f.initArgs, Label: f.label, PIN: pin})
	if err != nil {
		return nil, nil, err
	}
	return t, t.Close, nil
}

func throwAway(ctx context.Context, module, dir string) (*hsm.Token, error) {
	// The variable of whoever calls us names a token that we must not touch.
	if have := os.Getenv(softhsm.ConfVariable); have != "" && !strings.HasPrefix(have, dir+string(filepath.Separator)) {
		if err := os.Unsetenv(softhsm.ConfVariable); err != nil {
			return nil, err
		}
	}
	if err := softhsm.Use(dir); err != nil {
		return nil, err
	}
	pin, err := digits(8)
	if err != nil {
		return nil, err
	}
	soPIN, err := digits(12)
	if err != nil {
		return nil, err
	}
	if err := hsm.Format(module, "cardkms-probe", secret.New(soPIN), secret.New(pin)); err != nil {
		return nil, err
	}
	return hsm.Open(ctx, hsm.Config{Module: module, Label: "cardkms-probe", PIN: secret.New(pin)})
}
