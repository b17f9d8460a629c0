package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/update"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "COS images: sign, register, list"}
	c.AddCommand(a.signCommand(), a.registerCommand(), &cobra.Command{
		Use: "list", Short: "List the issuer's images", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all := []api.Image{}
				for p := (api.Page{}); ; {
					l, err := c.Images(cmd.Context(), a.issuer, p)
					if err != nil {
						return err
					}
					all = append(all, l.Images...)
					if p.Token = l.NextPageToken; p.Token == "" {
						break
					}
				}
				text := count(int64(len(all)), "image")
				for _, im := range all {
					text += fmt.Sprintf("\n%-24s %-10s %s → %s  %d bytes", plain(im.Name), plain(im.State), im.FromVersion, im.ToVersion, im.Size)
				}
				return a.show(all, "%s", text)
			})
		},
	})
	return c
}

type signFlags struct {
	name, content, key, keyName, class, component, from, to string
	counter                                                 uint32
}

func (a *app) signCommand() *cobra.Command {
	var f signFlags
	c := &cobra.Command{
		Use:   "sign",
		Short: "Describe an image and sign the description with a release key; prints JSON for register",
		Args:  exactly(0),
		RunE: func(_ *cobra.Command, _ []string) error {
			out, err := f.sign()
			if err != nil {
				return err
			}
			a.json = true
			return a.show(out, "")
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "name of the image")
	fl.StringVar(&f.content, "content", "", "`FILE` with the image")
	fl.StringVar(&f.key, "release-key", "", "private key `FILE` (PEM, PKCS #8: Ed25519 or ECDSA P-256)")
	fl.StringVar(&f.keyName, "release-key-name", "release", "name of the release key in the server's configuration")
	fl.StringVar(&f.class, "class", "", "UUID of the card product, 32 hexadecimal digits")
	fl.StringVar(&f.component, "component", "A000000151000000", "AID of what the image replaces")
	fl.StringVar(&f.from, "from", "", "version that the image replaces, 16 hexadecimal digits")
	fl.StringVar(&f.to, "to", "", "version that the image installs")
	fl.Uint32Var(&f.counter, "security-counter", 0, "security counter; never falls on a card")
	for _, n := range []string{"name", "content", "release-key", "class", "from", "to"} {
		_ = c.MarkFlagRequired(n)
	}
	return c
}

func (f signFlags) sign() (out api.RegisterImage, err error) {
	im := update.Image{Counter: f.counter}
	for flag, d := range map[string]struct {
		dst []byte
		hex string
	}{"--class": {im.Class[:], f.class}, "--from": {im.From[:], f.from}, "--to": {im.To[:], f.to}} {
		if b, err := hex.DecodeString(d.hex); err != nil || copy(d.dst, b) != len(d.dst) || len(b) != len(d.dst) {
			return out, errUsage{fmt.Errorf("%s has %d hexadecimal digits", flag, 2*len(d.dst))}
		}
	}
	if im.Component, err = hex.DecodeString(f.component); err != nil {
		return out, errUsage{errors.New("--component is hexadecimal")}
	}
	file, err := os.Open(f.content)
	if err != nil {
		return out, err
	}
	defer file.Close()
	seen := update.NewContent()
	if _, err := io.Copy(seen, file); err != nil {
		return out, err
	}
	seen.Fill(&im)
	if err := im.Check(); err != nil {
		return out, err
	}
	sig, err := signStatement(f.key, im.Statement())
	return api.RegisterImage{
		Name: f.name, Class: im.Class[:], Component: im.Component, FromVersion: im.From[:], ToVersion: im.To[:],
		SecurityCounter: im.Counter, Size: im.Size, SHA256: im.SHA256[:], CRC32: binary.BigEndian.AppendUint32(nil, im.CRC32),
		ReleaseKey: f.keyName, Signature: sig,
	}, err
}

func signStatement(path string, statement []byte) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the release key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return k.Sign(rand.Reader, statement, crypto.Hash(0))
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(statement)
		return ecdsa.SignASN1(rand.Reader, k, sum[:])
	}
	return nil, errors.New("a release key is Ed25519 or ECDSA P-256")
}

func (a *app) registerCommand() *cobra.Command {
	var content string
	c := &cobra.Command{
		Use: "register DESCRIPTION.json --content FILE", Short: "Register a signed image and upload its content", Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var in api.RegisterImage
			if err := json.Unmarshal(b, &in); err != nil {
				return fmt.Errorf("reading %s: %w", args[0], err)
			}
			file, err := os.Open(content)
			if err != nil {
				return err
			}
			defer file.Close()
			return a.with(func(c *client.Client) error {
				im, err := c.RegisterImage(cmd.Context(), a.issuer, in)
				if err != nil {
					return err
				}
				if im.State != api.ImageRegistered {
					if im, err = c.UploadImage(cmd.Context(), a.issuer, in.Name, int64(in.Size), file); err != nil {
						return err
					}
				}
				return a.show(im, "image %s is %s: %d bytes, signed by %s", im.Name, im.State, im.Size, im.ReleaseKey)
			})
		},
	}
	c.Flags().StringVar(&content, "content", "", "`FILE` with the image")
	_ = c.MarkFlagRequired("content")
	return c
}
