package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Transit is an Ed25519 key of a Transit engine.
type Transit struct {
	client  *Client
	mount   string
	name    string
	version string
	public  ed25519.PublicKey
}

// Transit returns the newest version of a key, or the one with this public key. What it
// signs can be checked with Public alone.
func (c *Client) Transit(ctx context.Context, mount, name string, public ed25519.PublicKey) (*Transit, error) {
	var s *api.Secret
	err := c.do(ctx, func(ctx context.Context, l *login) (err error) {
		s, err = l.api.Logical().ReadWithContext(ctx, mount+"/keys/"+name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the public key of %s/%s: %w", mount, name, err)
	}
	if s == nil || s.Data["type"] != "ed25519" {
		return nil, fmt.Errorf("vault: %s has no key %s of type ed25519", mount, name)
	}
	versions, _ := s.Data["keys"].(map[string]any)
	newest := fmt.Sprint(s.Data["latest_version"])
	for v, entry := range versions {
		fields, _ := entry.(map[string]any)
		text, _ := fields["public_key"].(string)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("vault: version %s of %s/%s shows no public key", v, mount, name)
		}
		if public == nil && v == newest || bytes.Equal(raw, public) {
			return &Transit{client: c, mount: mount, name: name, version: v, public: raw}, nil
		}
	}
	return nil, fmt.Errorf("vault: no version of %s/%s has the public key of the configuration", mount, name)
}

// Public returns the public key.
func (t *Transit) Public() ed25519.PublicKey { return t.public }

// Sign returns the signature over a message, 64 bytes. Whoever asked checks it.
func (t *Transit) Sign(ctx context.Context, message []byte) ([]byte, error) {
	var s *api.Secret
	err := t.client.do(ctx, func(ctx context.Context, l *login) (err error) {
		s, err = l.api.Logical().WriteWithContext(ctx, t.mount+"/sign/"+t.name, map[string]any{
			"input": base64.StdEncoding.EncodeToString(message), "key_version": t.version,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing with %s/%s of Vault: %w", t.mount, t.name, err)
	}
	if s == nil {
		return nil, errors.New("vault: no signature")
	}
	text, _ := s.Data["signature"].(string)
	text, ok := strings.CutPrefix(text, "vault:v"+t.version+":")
	signature, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		return nil, errors.New("vault: the answer holds no signature")
	}
	return signature, nil
}
