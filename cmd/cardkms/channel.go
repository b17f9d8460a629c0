package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

// success is the status word 9000.
var success = []byte{0x90, 0x00}

// line is an authenticated channel to a card.
type line struct {
	api    *client.Client
	issuer string
	id     string
	kdd    api.Hex
	card   *card
}

// connect runs mutual authentication with a card.
func connect(ctx context.Context, c *client.Client, issuer string, cd *card, in api.OpenChannel) (*line, error) {
	o, err := c.OpenChannel(ctx, issuer, in)
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	answer, err := greet(cd, o)
	if err != nil {
		return nil, err
	}
	a, err := c.Authenticate(ctx, issuer, o.ID, api.Authenticate{Response: answer})
	if err != nil {
		return nil, fmt.Errorf("verifying the card: %w", err)
	}
	l := &line{api: c, issuer: issuer, id: o.ID, kdd: a.KDD, card: cd}
	if len(o.Agreement) > 0 {
		return l, nil // the card waits for nothing more
	}
	r, err := cd.transmit(a.ExternalAuthenticate)
	if err != nil {
		return nil, err
	}
	if string(r) != string(success) {
		return nil, fmt.Errorf("the card refused the service: EXTERNAL AUTHENTICATE answered %X; do not try again before you know why, or the card may block", r)
	}
	return l, nil
}

// raw wraps one plain command, sends it and returns the card's protected answer.
func (l *line) raw(ctx context.Context, plain []byte) ([]byte, error) {
	w, err := l.api.Wrap(ctx, l.issuer, l.id, [][]byte{plain})
	if err != nil {
		return nil, err
	}
	return l.card.transmit(w[0])
}

// send transmits a secured script and returns the unwrapped answers. sent is
// called after each command.
func (l *line) send(ctx context.Context, script [][]byte, sent func()) ([][]byte, error) {
	answers := make([][]byte, len(script))
	for i, c := range script {
		r, err := l.card.transmit(c)
		if err != nil {
			return nil, err
		}
		answers[i] = r
		sent()
	}
	return l.api.Unwrap(ctx, l.issuer, l.id, answers)
}

func (l *line) close(ctx context.Context) { _ = l.api.CloseChannel(ctx, l.issuer, l.id) }

func (a *app) channelCommand() *cobra.Command {
	c := &cobra.Command{Use: "channel", Short: "Secure channels, step by step"}
	c.AddCommand(
		a.openCommand(),
		a.authenticateCommand(),
		a.scriptCommand("wrap", "Secure plain C-APDUs", (*client.Client).Wrap),
		a.scriptCommand("unwrap", "Check and decrypt R-APDUs, in the order of their commands", (*client.Client).Unwrap),
		&cobra.Command{
			Use: "close CHANNEL", Short: "End a channel and destroy its keys", Args: arguments(channelArg),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.with(func(c *client.Client) error { return c.CloseChannel(cmd.Context(), a.issuer, args[0]) })
			},
		},
		a.runCommand(),
	)
	return c
}

// with runs f with a client.
func (a *app) with(f func(*client.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (a *app) authenticateCommand() *cobra.Command {
	var level string
	c := &cobra.Command{
		Use: "authenticate CHANNEL RESPONSE", Short: "Verify the card's answer; prints EXTERNAL AUTHENTICATE for the card, if it waits for it", Args: arguments(channelArg, bytesArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := api.Authenticate{}
			var err error
			if in.Response, err = api.ParseHex(args[1]); err != nil {
				return errUsage{errors.New("RESPONSE is hexadecimal")}
			}
			if level != "" {
				in.Level = new(api.HexByte)
				if err := in.Level.UnmarshalText([]byte(level)); err != nil {
					return errUsage{errors.New("--level has two hexadecimal digits")}
				}
			}
			return a.with(func(c *client.Client) error {
				out, err := c.Authenticate(cmd.Context(), a.issuer, args[0], in)
				if err != nil {
					return err
				}
				if out.ExternalAuthenticate == nil {
					return a.show(out, "the card %s is proved; nothing is left to send", out.KDD)
				}
				return a.show(out, "%s", out.ExternalAuthenticate)
			})
		},
	}
	c.Flags().StringVar(&level, "level", "", "security level: 00, 01, 03, 11, 13, 33 (default: the profile's)")
	return c
}

type scripter func(*client.Client, context.Context, string, string, [][]byte) ([][]byte, error)

func (a *app) scriptCommand(use, short string, f scripter) *cobra.Command {
	return &cobra.Command{
		Use: use + " CHANNEL APDU...", Short: short, Args: cobra.MatchAll(atLeast(2), formed(channelArg)),
		RunE: func(cmd *cobra.Command, args []string) error {
			apdus, err := parseAPDUs(args[1:])
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				out, err := f(c, cmd.Context(), a.issuer, args[0], apdus)
				if err != nil {
					return err
				}
				return a.show(api.HexList(out), "%s", lines(out))
			})
		},
	}
}

func parseAPDUs(args []string) ([][]byte, error) {
	var out [][]byte
	for _, s := range args {
		b, err := hex.DecodeString(s)
		if err != nil {
			return nil, errUsage{fmt.Errorf("an APDU is hexadecimal without spaces")}
		}
		out = append(out, b)
	}
	return out, nil
}

func lines(in [][]byte) string {
	out := make([]string, len(in))
	for i, b := range in {
		out[i] = api.Hex(b).String()
	}
	return strings.Join(out, "\n")
}

// runCommand authenticates a card and sends it plain commands through a channel.
func (a *app) runCommand() *cobra.Command {
	var from opening
	var where string
	c := from.flags(&cobra.Command{
		Use: "run --card tcp:HOST:PORT APDU...", Short: "Authenticate a card and send it commands through a channel", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plain, err := parseAPDUs(args)
			if err != nil {
				return err
			}
			o, err := from.request()
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				cd, err := dialCard(cmd.Context(), where)
				if err != nil {
					return err
				}
				defer cd.close()
				l, err := connect(cmd.Context(), c, a.issuer, cd, o)
				if err != nil {
					return err
				}
				defer l.close(cmd.Context())
				script, err := c.Wrap(cmd.Context(), a.issuer, l.id, plain)
				if err != nil {
					return err
				}
				out, err := l.send(cmd.Context(), script, func() {})
				if err != nil {
					return err
				}
				return a.show(api.HexList(out), "%s", lines(out))
			})
		},
	})
	c.Flags().StringVar(&where, "card", "", "where the card is: `tcp:HOST:PORT`")
	_ = c.MarkFlagRequired("card")
	return c
}
