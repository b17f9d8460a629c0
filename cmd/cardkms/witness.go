package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/audit/witness"
)

// A witness's directory: its private key, its verifier key for the log's operator
// and the auditors, and what it last cosigned.
const (
	witnessKeyFile  = "witness.key"
	witnessVkeyFile = "witness.vkey"
	witnessStateDir = "logs"
)

func (a *app) witnessCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "witness", Short: "Watch the audit log of a service from another machine",
		Long: `Watch the audit log of a service from another machine.

A witness cosigns each checkpoint that continues the last one that it cosigned,
and refuses every other: who controls the service and its database then cannot
take the log back, or show two logs. The protocol is c2sp.org/tlog-witness. Run it
where the service's operator cannot change its directory.`,
	}
	c.AddCommand(a.witnessInit(), a.witnessServe(), a.witnessShow(), a.witnessForget())
	return c
}

func (a *app) witnessInit() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "init DIR --name NAME", Short: "Make a witness's key and print its verifier key", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			vkey, err := initWitness(args[0], name)
			if err != nil {
				return err
			}
			return a.show(map[string]string{"verifierKey": vkey}, "%s", vkey)
		},
	}
	c.Flags().StringVar(&name, "name", "", "`NAME` of the witness, a URL without scheme, e.g. witness.example.com/w1")
	_ = c.MarkFlagRequired("name")
	return c
}

// initWitness writes the key last but one, so that a directory with a verifier key
// has the key for it; and never over another key.
func initWitness(dir, name string) (vkey string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	if vkey, err = audit.CosignerKey(name, public); err != nil {
		return "", errUsage{fmt.Errorf("--name %q: %w", name, err)}
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := writeNew(filepath.Join(dir, witnessKeyFile), block, 0o600); err != nil {
		return "", err
	}
	return vkey, writeNew(filepath.Join(dir, witnessVkeyFile), []byte(vkey+"\n"), 0o644)
}

func writeNew(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

// loadWitness returns the signer and the verifier of a directory.
func loadWitness(dir string) (note.Signer, note.Verifier, error) {
	v, err := readVerifier(filepath.Join(dir, witnessVkeyFile))
	if err != nil {
		return nil, nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, witnessKeyFile))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM key", witnessKeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the witness's key: %w", err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, errors.New("a witness's key is Ed25519")
	}
	s, err := audit.NewCosigner(v.Name(), private, time.Now)
	if err != nil {
		return nil, nil, err
	}
	if s.KeyHash() != v.KeyHash() {
		return nil, nil, fmt.Errorf("%s and %s are not a pair", witnessKeyFile, witnessVkeyFile)
	}
	return s, v, nil
}

func (a *app) witnessServe() *cobra.Command {
	var listen string
	var logKeys []string
	c := &cobra.Command{
		Use: "serve DIR --listen ADDR --log-key FILE [--log-key FILE...]", Short: "Answer add-checkpoint requests",
		Long: `Answer add-checkpoint requests until interrupted.

It speaks plain HTTP: listen on the loopback address, or put a TLS server in
front. Requests need no authentication, because the checkpoints are signed; what a
stranger can do is to submit a checkpoint that the log signed.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signer, _, err := loadWitness(args[0])
			if err != nil {
				return err
			}
			cfg := witness.Config{
				Dir: filepath.Join(args[0], witnessStateDir), Signer: signer,
				Logger: slog.New(slog.NewTextHandler(a.err, nil)),
			}
			for _, file := range logKeys {
				v, err := readVerifier(file)
				if err != nil {
					return err
				}
				cfg.Logs = append(cfg.Logs, v)
			}
			return a.serveWitness(cmd.Context(), cfg, listen)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "`ADDR` to listen on, e.g. 127.0.0.1:8444")
	c.Flags().StringArrayVar(&logKeys, "log-key", nil, "`FILE` with the verifier key of a log to watch; may be repeated")
	_ = c.MarkFlagRequired("listen")
	_ = c.MarkFlagRequired("log-key")
	return c
}

func (a *app) serveWitness(ctx context.Context, cfg witness.Config, listen string) error {
	s, err := witness.NewServer(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "witness %s listens on http://%s\n", cfg.Signer.Name(), l.Addr())
	web := &http.Server{
		Handler: s, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return web.Shutdown(stopping)
}

func (a *app) witnessShow() *cobra.Command {
	return &cobra.Command{
		Use: "show DIR", Short: "Show what the witness last cosigned", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := readVerifier(filepath.Join(args[0], witnessVkeyFile))
			if err != nil {
				return err
			}
			notes, err := witness.Remembered(filepath.Join(args[0], witnessStateDir))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return a.showCosigned(v, notes)
		},
	}
}

// cosigned is the last checkpoint of one log.
type cosigned struct {
	Log  string    `json:"log"`
	Size int64     `json:"size"`
	Root string    `json:"root"`
	Time time.Time `json:"time"`
}

func (a *app) showCosigned(v note.Verifier, notes [][]byte) error {
	all := []cosigned{}
	var text []string
	for _, msg := range notes {
		at, err := audit.CosignatureTime(msg, v)
		if err != nil {
			return negative(err)
		}
		body, _, _ := bytes.Cut(msg, []byte("\n\n"))
		c, err := audit.ParseCheckpoint(string(body) + "\n")
		if err != nil {
			return negative(err)
		}
		one := cosigned{c.Origin, c.Size, c.Root.String(), at}
		all = append(all, one)
		text = append(text, fmt.Sprintf("%s  %d entries  root %s  at %s", one.Log, one.Size, one.Root, stamp(at)))
	}
	return a.show(all, "%s", strings.Join(append(text, fmt.Sprintf("%d logs", len(all))), "\n"))
}

func (a *app) witnessForget() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "forget DIR ORIGIN --yes", Short: "Accept any next checkpoint of a log",
		Long: `Forget the last checkpoint of a log, so that the next one may be any.

This is for a log that was restored from a backup and is shorter than before: a
decision of people, after the ceremony, and what the witness knew should go into
its record ("show" prints it). It gives up what the witness is for, once. The
witness must not be running.`,
		Args: exactly(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if !yes {
				return errUsage{errors.New("forgetting a checkpoint lets the log start again; say --yes if that was decided")}
			}
			err := witness.Forget(filepath.Join(args[0], witnessStateDir), args[1])
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the witness has cosigned nothing of %s", args[1])
			}
			if err != nil {
				return err
			}
			return a.show(map[string]string{"forgotten": args[1]}, "forgotten: %s", args[1])
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "it was decided")
	return c
}
