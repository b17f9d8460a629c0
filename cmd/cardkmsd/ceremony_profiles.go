package main

import (
	"context"
	"encoding/hex"
	"fmt"

	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
	"cardkms/kms/profile"
)

// profileStep registers a card profile. Its known answers run then, in the token that the
// keys before it are in. Whether it is done is the word of the ceremony's row: officers may
// have registered a newer version since, which an older file must not take back.
func (c *conductor) profileStep(p ceremony.Profile) step {
	digest := profile.Digest([]byte(p.Document))
	made := facts{"sha256": hex.EncodeToString(digest[:])}
	return step{
		name:  p.String(),
		words: fmt.Sprintf("Register the card profile %s of issuer %s, SHA-256 %x.", p.Name(), p.Issuer, digest),
		check: func(context.Context) error { return c.checkIssuer(p.Issuer) },
		done: func(ctx context.Context) (facts, bool, error) {
			kept, err := c.node.service.Ceremony(ctx, c.f.Hex())
			if fault.CodeOf(err) == fault.NotFound {
				return nil, false, nil
			}
			_, done := kept.Steps[p.String()]
			return made, done, err
		},
		do: func(ctx context.Context) (facts, error) {
			_, err := c.node.service.LoadProfile(ctx, c.by, kms.NewProfile{
				Issuer: p.Issuer, Document: p.Document, Ceremony: c.f.Hex(), Step: p.String(),
			})
			return made, err
		},
	}
}
