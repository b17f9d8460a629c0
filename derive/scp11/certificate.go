package scp11

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"time"

	"cardkms/derive"
	"cardkms/kms/fault"
)

// Bounds of what a card shows of itself.
const (
	CertificatesMax     = 8
	CertificateBytesMax = 4096
)

// KDDBytes is the length of a card's name.
const KDDBytes = 10

// KDD returns the name of the card that has a public key: the first 10 bytes of the SHA-256
// of its SubjectPublicKeyInfo. SCP11 has no key diversification data; this stands where
// other protocols have them, and only the card that has the private key can answer to it.
func KDD(public *ecdh.PublicKey) []byte {
	sum := derive.Fingerprint(public)
	return sum[:KDDBytes]
}

var errCertificate = fault.New(fault.ProfileMismatch, "the card's certificate is not one that the card profile trusts now: it is the first of the chain, on P-256, for key agreement, "+
	"within its dates, and the others lead to a trust anchor of the profile")

// ParseCertificate reads one X.509 certificate in DER.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > CertificateBytesMax {
		return nil, fault.New(fault.TooLarge, "a certificate has at most 4096 bytes")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.InvalidInput, "this is no X.509 certificate in DER")
	}
	return c, nil
}

// Card returns the public key of a card whose certificate, the first of a chain, is trusted
// because of an anchor at this time: [RFC 5280], Section 6.
func Card(chain, anchors []*x509.Certificate, now time.Time) (*ecdh.PublicKey, error) {
	if len(chain) == 0 || len(chain) > CertificatesMax {
		return nil, fault.New(fault.InvalidInput, "the card's certificate comes first, and those that lead to a trust anchor behind it, at most 8 together")
	}
	public, err := Agrees(chain[0])
	if err != nil {
		return nil, errCertificate
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range anchors {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return nil, errCertificate
	}
	return public, nil
}

// Agrees returns the public key of a certificate that may agree on secrets with it: one of
// P-256 that is no authority's and, where it says so at all, is for key agreement.
func Agrees(c *x509.Certificate) (*ecdh.PublicKey, error) {
	p, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || p.Curve != elliptic.P256() || c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageKeyAgreement == 0 {
		return nil, fault.New(fault.InvalidInput, "the certificate is of no key on P-256 that agrees on secrets")
	}
	return p.ECDH()
}
