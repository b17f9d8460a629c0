package derive

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"cardkms/kms/key"
)

// Agreer agrees on secrets with somebody who has a pair on P-256, by ECDH ([SP 800-56A]
// NIST SP 800-56A Revision 3, Section 5.7.1.2). Neither a private half nor a secret
// leaves the token.
type Agreer interface {
	// Ephemeral makes a pair in the token of this name, "" for the main one, and returns
	// its private half, an Agreeing key and volatile, and its public half. A token that
	// could not derive from what it agrees on is fault.TokenUnable.
	Ephemeral(ctx context.Context, token string) (*Key, *ecdh.PublicKey, error)
	// Agree refers to the secret that each of ours shares with its peer, the one behind
	// the other: an Agreed key, volatile. Both of ours are in one token.
	Agree(ctx context.Context, ours [2]*Key, peers [2]*ecdh.PublicKey) (*Key, error)
}

// SubjectPublicKeyInfo returns a public key as [RFC 5280], Section 4.1, has it, in DER.
func SubjectPublicKeyInfo(public *ecdh.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic("derive: " + err.Error()) // P-256 has an object identifier
	}
	return der
}

// Fingerprint returns the SHA-256 of the SubjectPublicKeyInfo of a public key.
func Fingerprint(public *ecdh.PublicKey) [sha256.Size]byte {
	return sha256.Sum256(SubjectPublicKeyInfo(public))
}

// PairKCV is the check value of a pair, which tells two of them apart for people: the
// first bytes of its fingerprint. Whoever wants another pair to have it tries 2^24, so what
// compares pairs for a program compares Root.Public.
func PairKCV(public *ecdh.PublicKey) key.KCV {
	sum := Fingerprint(public)
	return key.KCV{Method: key.KCVSPKI, Value: fmt.Sprintf("%X", sum[:3])}
}
