package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"cardkms/kms/store"
)

// filesEvery is the pause between two looks at the files under tls:. A test shortens it.
var filesEvery = time.Minute

// reloadTimeout bounds one change, most of which is its entry in the audit log.
const reloadTimeout = 15 * time.Second

// watch reads the configuration again at each signal, and the files under tls: each
// minute: certificates are renewed by others.
func (f *front) watch(ctx context.Context, hangup <-chan os.Signal) {
	files := time.NewTicker(filesEvery)
	defer files.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			f.said(f.reload(ctx))
		case <-files.C:
			f.said(f.renew(ctx))
		}
	}
}

// said tells the operator what came of a change.
func (f *front) said(changed bool, err error) {
	switch {
	case err != nil:
		f.logger.Error("the configuration is refused, and the one before stays in force", "error", err)
	case changed:
		f.logger.Info("the configuration was reloaded", "digest", f.cfg.digest, "server certificate until", f.ends()["server"])
	}
}

// reload puts the configuration file in force as it is now, or nothing of it.
func (f *front) reload(ctx context.Context) (changed bool, err error) {
	cfg, err := load(f.cfg.file)
	if err != nil {
		return false, err
	}
	cfg.fromVault = f.cfg.fromVault
	if fields := f.cfg.fixedIn(cfg); len(fields) > 0 {
		return false, fmt.Errorf("%s changed, which a restart puts in force", strings.Join(fields, ", "))
	}
	return true, f.change(ctx, cfg)
}

// renew puts the files under tls: in force, if they are others than before.
func (f *front) renew(ctx context.Context) (changed bool, err error) {
	t, err := f.cfg.transport(f.tls.Load())
	if err != nil || t.files == f.tls.Load().files {
		return false, err
	}
	return true, f.change(ctx, f.cfg)
}

// change checks all that may be wrong, then says in the log what is to be in force, and
// then puts it in force, which cannot fail. If the process dies in between, the next one
// starts with it.
func (f *front) change(ctx context.Context, cfg *config) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	t, err := cfg.transport(f.tls.Load())
	if err != nil {
		return err
	}
	admission, err := cfg.admission(t)
	if err != nil {
		return err
	}
	apply, err := f.api.Prepare(admission)
	if err != nil {
		return err
	}
	clients, err := cfg.clients()
	if err != nil {
		return err
	}
	leaf, err := t.leaf()
	if err != nil {
		return err
	}
	digest := sha256.Sum256(leaf.Raw)
	found := map[string]string{"config": cfg.hexDigest(), "certificate": hex.EncodeToString(digest[:])}
	if err := f.n.service.Reconfigured(ctx, found, clients); err != nil {
		if errors.Is(err, store.ErrUnknown) {
			return fmt.Errorf("the audit log may say that it is in force, so another reload is needed: %w", err)
		}
		return err
	}
	f.n.log.SetExtensions(cfg.extensions())
	apply()
	f.use(t)
	f.cfg = cfg
	return nil
}

// fixedIn names the fields that another configuration changes and only a new process puts
// in force. What may change is who calls and with which certificates.
func (c *config) fixedIn(other *config) (fields []string) {
	a, b := reflect.ValueOf(c.fixed()), reflect.ValueOf(other.fixed())
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			fields = append(fields, name)
		}
	}
	if x, y := slices.Sorted(slices.Values(c.issuers())), slices.Sorted(slices.Values(other.issuers())); !slices.Equal(x, y) {
		fields = append(fields, "the issuers")
	}
	return fields
}

func (c *config) fixed() config {
	out := *c //nolint:govet // the copy is read only
	out.Clients, out.Proxies, out.TLS, out.Limits.RequestsPerSecond = nil, nil, tlsConfig{Vault: c.TLS.Vault}, 0
	return out
}

// hexDigest is the SHA-256 of the file as an entry of the log can hold it.
func (c *config) hexDigest() string { return hex.EncodeToString(c.sum[:]) }

// extensions are the lines that checkpoints have of a configuration.
func (c *config) extensions() []string { return []string{"config " + c.digest} }
