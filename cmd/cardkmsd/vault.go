package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"

	"cardkms/kms/secret"
	"cardkms/kms/vault"
)

// errVault marks what a Vault did not give that is away, sealed, or set up in another
// way: it may give it later.
type errVault struct{ error }

func (e errVault) Unwrap() error { return e.error }

func ofVault(err error) error {
	if err == nil {
		return nil
	}
	return errVault{err}
}

// vaultLogin is what a process has of Vault. Each part is got once, and kept by its
// client from then on, however often a node is opened. Owned by who opens.
type vaultLogin struct {
	cfg         vault.Config
	client      *vault.Client // nil before it logged in
	database    *vault.Database
	certificate *vault.ServerCertificate
	pinVersion  atomic.Int64 // of the newest PIN that was read; 0 for none
}

// openVault logs in, unless the process has. It does nothing for a configuration without
// a Vault.
func (c *config) openVault(ctx context.Context, logger *slog.Logger) error {
	if c.Vault == nil {
		return nil
	}
	if c.fromVault == nil {
		c.fromVault = &vaultLogin{cfg: vault.Config{Address: c.Vault.Address, CACert: c.path(c.Vault.CACert), Auth: c.method(), Logger: logger}}
	}
	v := c.fromVault
	if v.client != nil {
		return nil
	}
	var err error
	if v.client, err = vault.Open(ctx, v.cfg); errors.Is(err, vault.ErrConfig) {
		return err
	}
	return ofVault(err)
}

// closeVault gives back what Vault gave.
func (c *config) closeVault() {
	if c.fromVault == nil || c.fromVault.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), vault.CallTimeout)
	defer cancel()
	_ = c.fromVault.client.Close(ctx) // without an answer it ends by itself
	c.fromVault = nil
}

// pin is a User PIN: a value, or what reads it from Vault whenever it is needed.
type pin struct {
	value  secret.Bytes
	source func() (secret.Bytes, error)
}

// pin returns the User PIN that a reference names.
func (c *config) pin(ref string) (p pin, err error) {
	s, ok := strings.CutPrefix(ref, vaultPrefix)
	if !ok {
		p.value, err = c.resolve(ref)
		return p, err
	}
	p.source = c.pinOfVault(s)
	return p, nil
}

func (c *config) pinOfVault(s string) func() (secret.Bytes, error) {
	return func() (secret.Bytes, error) {
		ref, err := vault.ParseRef(s)
		if err != nil {
			return secret.Bytes{}, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), vault.CallTimeout)
		defer cancel()
		pin, version, err := c.fromVault.client.Read(ctx, ref)
		if err == nil {
			c.fromVault.pinVersion.Store(int64(version))
			c.fromVault.cfg.Logger.Info("the PIN was read from Vault", slog.Int("version", version))
		}
		return pin, ofVault(err)
	}
}

// databaseUser returns the credentials that Vault makes.
func (c *config) databaseUser(ctx context.Context) (*vault.Database, error) {
	v := c.fromVault
	if v.database != nil {
		return v.database, nil
	}
	var err error
	v.database, err = v.client.Database(ctx, strings.TrimPrefix(c.Database.Credentials, vaultPrefix))
	return v.database, ofVault(err)
}

// openCertificate gets the certificate to serve with, if it is Vault's.
func (c *config) openCertificate(ctx context.Context) error {
	t := c.TLS.Vault
	if t == nil || c.fromVault.certificate != nil {
		return nil
	}
	ips, err := t.ips()
	if err != nil {
		return err
	}
	c.fromVault.certificate, err = c.fromVault.client.ServerCertificate(ctx, vault.CertificateRequest{Sign: t.PKI, CommonName: t.CommonName, IPs: ips, TTL: t.TTL})
	return ofVault(err)
}

// vaultFails reports whether Vault did not answer to the newest request.
func (c *config) vaultFails() bool {
	return c.fromVault != nil && c.fromVault.client != nil && c.fromVault.client.Failing() != nil
}
