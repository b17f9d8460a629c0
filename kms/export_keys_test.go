package kms

import (
	"context"

	"cardkms/kms/key"
)

// Serving is what every use of a key goes through before anything is derived.
func (s *Service) Serving(ctx context.Context, issuer, name string, kvn byte) error {
	_, err := s.version(ctx, issuer, name, key.GPSCP03, kvn, key.Protect)
	return err
}
