package kms

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"cardkms/kms/store"
)

// The database is untrusted, so it does not learn which cards there are. A card's
// row is named by a MAC, and its key diversification data stands in the row
// encrypted, both under Config.Registry, which never leaves the token:
//
//	name    = CMAC(K, "cardkms-card-name/1" 0A | issuer | 00 | KDD)           16 bytes
//	sealed  = KDD xor the first 10 bytes of CMAC(K, "cardkms-card-seal/1" 0A | name)
//
// The name is a synthetic initialisation vector, as in [RFC 5297] Synthetic
// Initialization Vector (SIV) Authenticated Encryption Using AES: equal cards give
// equal names, which is what finds them, and nothing else shows. Opening computes
// the name again, so that a sealed identifier of another row is no proof of
// anything. Both are under one key because CMAC is a pseudo-random function and the
// messages, like those of the MACs of rows, begin with different words.

const (
	nameHeader = "cardkms-card-name/1\n"
	sealHeader = "cardkms-card-seal/1\n"
)

// kddBytes is the length of key diversification data.
const kddBytes = 10

// cardRef names the row of a card.
func (s *Service) cardRef(ctx context.Context, issuer string, kdd []byte) (store.Ref, error) {
	return s.named(ctx, kindCard, issuer, append(append([]byte(nameHeader+issuer), 0), kdd...))
}

// named returns the row of a kind whose name is the MAC of a message, which begins with
// a header of that kind's own.
func (s *Service) named(ctx context.Context, kind store.Kind, issuer string, message []byte) (store.Ref, error) {
	mac, err := s.cfg.Token.MAC(ctx, s.cfg.Registry, message)
	if err != nil {
		return store.Ref{}, fmt.Errorf("naming a card: %w", err)
	}
	return store.Ref{Kind: kind, Issuer: issuer, ID: hex.EncodeToString(mac)}, nil
}

// rowOfCard is the row of a card whose name is known.
func rowOfCard(issuer, name string) store.Ref {
	return store.Ref{Kind: kindCard, Issuer: issuer, ID: name}
}

// pad returns what key diversification data is masked with in the row of this name.
func (s *Service) pad(ctx context.Context, name string) ([]byte, error) {
	raw, err := hex.DecodeString(name)
	if err != nil {
		return nil, errors.New("kms: a stored name of a card is not hexadecimal")
	}
	mac, err := s.cfg.Token.MAC(ctx, s.cfg.Registry, append([]byte(sealHeader), raw...))
	if err != nil {
		return nil, fmt.Errorf("sealing or opening a card's identifier: %w", err)
	}
	return mac[:kddBytes], nil
}

// sealCard returns the sealed identifier of the card whose row this is.
func (s *Service) sealCard(ctx context.Context, ref store.Ref, kdd []byte) (string, error) {
	pad, err := s.pad(ctx, ref.ID)
	if err != nil {
		return "", err
	}
	subtle.XORBytes(pad, pad, kdd)
	return hex.EncodeToString(pad), nil
}

// cardBehind returns the key diversification data of a card whose row is not to be
// trusted, nil if it is not there: the seal proves itself by the row's name.
func (s *Service) cardBehind(ctx context.Context, ref store.Ref) (kdd []byte) {
	var c Card
	_ = s.cfg.Store.View(ctx, func(tx store.Tx) error { _, err := get(tx, ref, &c); return err })
	kdd, _ = s.openCard(ctx, ref.Issuer, ref.ID, c.Sealed)
	return kdd
}

// openCard returns the key diversification data behind a name and its seal.
func (s *Service) openCard(ctx context.Context, issuer, name, sealed string) ([]byte, error) {
	kdd, err := hex.DecodeString(sealed)
	if err != nil || len(kdd) != kddBytes {
		return nil, errors.New("kms: a stored identifier of a card is not 20 hexadecimal digits")
	}
	pad, err := s.pad(ctx, name)
	if err != nil {
		return nil, err
	}
	subtle.XORBytes(kdd, kdd, pad)
	ref, err := s.cardRef(ctx, issuer, kdd)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(ref.ID), []byte(name)) != 1 {
		return nil, errors.New("kms: a stored identifier belongs to another card")
	}
	return kdd, nil
}
