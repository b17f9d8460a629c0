package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/profile"
)

// opening are the flags that say which channel is opened.
type opening struct{ key, kvn, profile, certificates string }

func (o *opening) flags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&o.key, "key", "", "name of the key: gp-scp03, or gp-scp02 or gp-scp11 as the card profile says (default isd; none with --certificates)")
	c.Flags().StringVar(&o.kvn, "kvn", "", "Key Version Number, two hexadecimal digits (default: the card's, or the first of a profile of SCP11)")
	c.Flags().StringVar(&o.profile, "card-profile", "", "card profile of the server")
	c.Flags().StringVar(&o.certificates, "certificates", "", "of a card of SCP11: `FILE` with its certificates in PEM, its own first; without --key it is SCP11b, which does not prove the service to the card")
	return c
}

func (o opening) request() (out api.OpenChannel, err error) {
	out = api.OpenChannel{Key: o.key, Profile: o.profile}
	switch {
	case o.certificates != "":
		out.Certificates, err = readCertificates(o.certificates)
	case o.key == "":
		out.Key = "isd"
	}
	if err == nil && o.kvn != "" && out.KVN.UnmarshalText([]byte(o.kvn)) != nil {
		err = errUsage{errors.New("--kvn has two hexadecimal digits")}
	}
	return out, err
}

// readCertificates reads certificates in PEM, and nothing else.
func readCertificates(path string) (out []api.Hex, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	blocks, err := profile.DecodePEM(text)
	if err != nil || len(blocks) == 0 {
		return nil, fmt.Errorf("%s holds no certificates in PEM, or something else beside", path)
	}
	for _, der := range blocks {
		out = append(out, der)
	}
	return out, nil
}

func (a *app) openCommand() *cobra.Command {
	var o opening
	return o.flags(&cobra.Command{
		Use: "open", Short: "Start a channel; prints its id and what to send to the card", Args: exactly(0),
		Long: `Start a channel; prints its id and INITIALIZE UPDATE for the card. For a card of
SCP11, whose certificates --certificates names, it prints further commands on lines
of their own: the card answers each but the last with 9000, and "channel
authenticate" takes its answer to the last one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := o.request()
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				out, err := c.OpenChannel(cmd.Context(), a.issuer, in)
				if err != nil {
					return err
				}
				return a.show(out, "%s %s", out.ID, lines(commandsOf(out)))
			})
		},
	})
}

// greet sends what a channel opens with, and returns the card's answer to the last of it.
func greet(cd *card, o api.OpenedChannel) ([]byte, error) {
	commands := commandsOf(o)
	for _, c := range commands[:len(commands)-1] {
		r, err := cd.transmit(c)
		if err != nil {
			return nil, err
		}
		if string(r) != string(success) {
			return nil, fmt.Errorf("the card does not take the host's certificates: it answered %X; they have to lead to the key of the card that the card profile names as the authority", r)
		}
	}
	return cd.transmit(commands[len(commands)-1])
}

// commandsOf are INITIALIZE UPDATE, or the commands of SCP11.
func commandsOf(o api.OpenedChannel) [][]byte {
	if len(o.Agreement) == 0 {
		return [][]byte{o.InitializeUpdate}
	}
	return api.Bytes(o.Agreement)
}
