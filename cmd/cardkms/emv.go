package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

func (a *app) emvCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "emv", Short: "Application cryptograms and issuer scripts of EMV cards",
		Long: `Application cryptograms and issuer scripts of EMV cards. Each command reads one
JSON object, as the API takes it, from a file or from standard input (-): a PAN
never stands on a command line, where every user of the machine reads it.

  {"profile": "mchip-16", "key": "ac", "dki": "01", "pan": "…", "psn": "00",
   "atc": "001C", "unpredictableNumber": "ABCDEF12", "data": "…", "arqc": "…",
   "code": "0010", "smi": "smi", "smc": "smc",
   "commands": [{"command": "84180000"}, {"command": "84240002082…", "encipher": true}]}

verify takes the first two lines, arpc also "code", script all of it. Scripts are in
Format 2. The profiles ccd-5 (3DES) and aes-c (AES) have scripts in Format 1; a server
serves them only with experimental: true.`,
	}
	c.AddCommand(
		jsonVerb(a, "verify", "Verify an application cryptogram, once", (*client.Client).VerifyARQC, func(api.EMVVerified) string { return "verified" }),
		jsonVerb(a, "arpc", "Verify an ARQC and answer it", (*client.Client).AnswerARQC, func(r api.EMVResponse) string { return r.ARPC.String() }),
		jsonVerb(a, "script", "Verify an ARQC, answer it and secure an issuer script", (*client.Client).SecureEMVScript, func(r api.EMVSecured) string {
			text := r.ARPC.String()
			for _, c := range r.Commands {
				text += "\n" + c.String()
			}
			return text
		}),
	)
	return c
}

// jsonVerb is a command that sends what it reads.
func jsonVerb[In, Out any](a *app, use, short string, f func(*client.Client, context.Context, string, In) (Out, error), text func(Out) string) *cobra.Command {
	return &cobra.Command{
		Use: use + " FILE", Short: short, Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in In
			if err := readJSON(cmd.InOrStdin(), args[0], &in); err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				out, err := f(c, cmd.Context(), a.issuer, in)
				if err != nil {
					return err
				}
				return a.show(out, "%s", text(out))
			})
		},
	}
}

// requestBytesMax bounds what is read for one request.
const requestBytesMax = 64 << 10

// readJSON reads one object from a file, or from stdin if the file is "-". An error
// repeats nothing of it.
func readJSON(stdin io.Reader, file string, into any) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		stdin = f
	}
	b, err := io.ReadAll(io.LimitReader(stdin, requestBytesMax))
	if err != nil {
		return err
	}
	if err := json.UnmarshalRead(bytes.NewReader(b), into, json.RejectUnknownMembers(true)); err != nil {
		return errUsage{fmt.Errorf("%s is not the JSON object that this command takes; see its --help", file)}
	}
	return nil
}
