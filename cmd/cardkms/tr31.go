package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/kms/key"
	"cardkms/kms/keywrap"
	"cardkms/kms/secret"
	"cardkms/kms/tr31"
)

func (a *app) tr31Command() *cobra.Command {
	c := &cobra.Command{
		Use: "tr31", Short: "Key blocks of TR-31 / X9.143, versions B and D, offline",
		Long: `Read and write key blocks, for laboratories and for moving keys from another system.

Keys are clear in the memory of this program and in the files that it reads: do not
use it for production masters, which come as components or wrapped under a
key-encryption key of the token. Files of keys hold hexadecimal digits.`,
	}
	c.AddCommand(a.tr31InspectCommand(), a.tr31UnwrapCommand(), a.tr31WrapCommand())
	return c
}

// keyFile reads a key in hexadecimal.
func keyFile(path string) (secret.Bytes, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer clear(b)
	text := bytes.TrimSpace(b)
	out := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(out, text); err != nil || len(out) == 0 {
		clear(out)
		return secret.Bytes{}, fmt.Errorf("%s holds no key in hexadecimal digits", path)
	}
	return secret.New(out), nil
}

// tr31Header is a header as it is shown.
type tr31Header struct {
	Version       string            `json:"version"`
	Usage         string            `json:"usage"`
	Algorithm     string            `json:"algorithm"`
	Mode          string            `json:"mode"`
	KeyVersion    string            `json:"keyVersion"`
	Exportability string            `json:"exportability"`
	Optional      map[string]string `json:"optional,omitempty"`
}

func shown(h tr31.Header) tr31Header {
	out := tr31Header{string(rune(h.Version)), h.Usage, string(rune(h.Algorithm)), string(rune(h.Mode)), h.KeyVersion, string(rune(h.Exportability)), map[string]string{}}
	for _, o := range h.Optional {
		out.Optional[o.ID] = o.Data
	}
	return out
}

func (h tr31Header) String() string {
	s := fmt.Sprintf("version %s, usage %s, algorithm %s, mode of use %s, key version %s, exportability %s", h.Version, h.Usage, h.Algorithm, h.Mode, h.KeyVersion, h.Exportability)
	for id, data := range h.Optional {
		s += fmt.Sprintf(", %s %s", id, data)
	}
	return s
}

func (a *app) tr31InspectCommand() *cobra.Command {
	return &cobra.Command{
		Use: "inspect BLOCK", Short: "Show the header of a block; nothing is verified", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := tr31.Parse(args[0])
			if err != nil {
				return err
			}
			return a.show(shown(h), "%s (not verified)", shown(h))
		},
	}
}

// unwrapped is what is said of a verified block.
type unwrapped struct {
	tr31Header
	KeyAlgorithm key.Algorithm `json:"keyAlgorithm"`
	KCV          string        `json:"kcv"`
	Wrapped      string        `json:"wrapped,omitempty"` // by AES-KWP
	Key          string        `json:"key,omitempty"`
}

func (a *app) tr31UnwrapCommand() *cobra.Command {
	var kbpk, kek string
	var show bool
	c := &cobra.Command{
		Use: "unwrap BLOCK --kbpk FILE", Short: "Verify a block and show its key's check value", Args: exactly(1),
		Long: `Verify a block under its key block protection key and show the check value of its
key. With --kek the key is wrapped again by AES-KWP under an AES-256 key-encryption
key, as "cardkmsd ceremony run" takes it, so that it touches no disk in clear. The key
itself is not shown, unless you insist.`,
		RunE: func(_ *cobra.Command, args []string) error {
			u, err := unwrapBlock(args[0], kbpk, kek, show)
			if errors.Is(err, tr31.ErrBlock) {
				return fmt.Errorf("%w: %w", errNotVerified, err)
			}
			if err != nil {
				return err
			}
			text := fmt.Sprintf("%s\n%s, kcv %s", u.tr31Header, u.KeyAlgorithm, u.KCV)
			if u.Wrapped != "" {
				text += fmt.Sprintf("\nfor a ceremony's file, with the label of the key-encryption key:\n  {kcv: %q, wrapped: {kek: LABEL, method: aes-kwp, blob: %q}}", u.KCV, u.Wrapped)
			}
			if u.Key != "" {
				text += "\nkey " + u.Key
			}
			return a.show(u, "%s", text)
		},
	}
	c.Flags().StringVar(&kbpk, "kbpk", "", "`FILE` with the key block protection key")
	c.Flags().StringVar(&kek, "kek", "", "`FILE` with an AES-256 key-encryption key")
	c.Flags().BoolVar(&show, "i-know-this-shows-a-key", false, "show the key")
	_ = c.MarkFlagRequired("kbpk")
	return c
}

func unwrapBlock(block, kbpkFile, kekFile string, show bool) (u unwrapped, err error) {
	kbpk, err := keyFile(kbpkFile)
	if err != nil {
		return u, err
	}
	defer kbpk.Wipe()
	h, k, err := tr31.Unwrap(kbpk, block)
	if err != nil {
		return u, err
	}
	defer k.Wipe()
	u.tr31Header, u.KeyAlgorithm = shown(h), h.KeyAlgorithm(k.Len())
	if u.KeyAlgorithm == "" {
		return u, fmt.Errorf("the block holds a key of algorithm %c, which cardkms does not use", h.Algorithm)
	}
	kcv, err := tr31.CheckValue(key.MethodFor(u.KeyAlgorithm), k)
	if err != nil {
		return u, err
	}
	u.KCV = string(kcv.Method) + ":" + kcv.Value
	if show {
		u.Key = strings.ToUpper(hex.EncodeToString(k.Reveal()))
	}
	if kekFile == "" {
		return u, nil
	}
	kek, err := keyFile(kekFile)
	if err != nil {
		return u, err
	}
	defer kek.Wipe()
	if kek.Len() != key.AES256.Size() {
		return u, errors.New("a key-encryption key is an AES-256 key")
	}
	blob, err := keywrap.WrapPad(kek, k)
	u.Wrapped = strings.ToUpper(hex.EncodeToString(blob))
	return u, err
}

func (a *app) tr31WrapCommand() *cobra.Command {
	var kbpk, value string
	var version, algorithm, mode, exportability string
	h := tr31.Header{}
	c := &cobra.Command{
		Use: "wrap --kbpk FILE --key FILE", Short: "Make a block of a key", Args: exactly(0),
		RunE: func(*cobra.Command, []string) error {
			for _, f := range []struct {
				to   *byte
				from string
			}{{&h.Version, version}, {&h.Algorithm, algorithm}, {&h.Mode, mode}, {&h.Exportability, exportability}} {
				if len(f.from) != 1 {
					return errUsage{errors.New("--version, --algorithm, --mode and --exportability have one character")}
				}
				*f.to = f.from[0]
			}
			block, err := wrapBlock(kbpk, value, h)
			if err != nil {
				return err
			}
			return a.show(map[string]string{"block": block}, "%s", block)
		},
	}
	f := c.Flags()
	f.StringVar(&kbpk, "kbpk", "", "`FILE` with the key block protection key")
	f.StringVar(&value, "key", "", "`FILE` with the key")
	f.StringVar(&version, "version", "D", "B (3DES) or D (AES)")
	f.StringVar(&h.Usage, "usage", "E5", "two characters, e.g. E5 card personalisation, K0 key encryption")
	f.StringVar(&algorithm, "algorithm", "A", "of the key: A AES, T 3DES")
	f.StringVar(&mode, "mode", "X", "mode of use: X derive, N no restriction")
	f.StringVar(&h.KeyVersion, "key-version", "00", "two characters")
	f.StringVar(&exportability, "exportability", "N", "E, N or S")
	_ = c.MarkFlagRequired("kbpk")
	_ = c.MarkFlagRequired("key")
	return c
}

func wrapBlock(kbpkFile, keyPath string, h tr31.Header) (string, error) {
	kbpk, err := keyFile(kbpkFile)
	if err != nil {
		return "", err
	}
	defer kbpk.Wipe()
	k, err := keyFile(keyPath)
	if err != nil {
		return "", err
	}
	defer k.Wipe()
	return tr31.Wrap(kbpk, h, k)
}
