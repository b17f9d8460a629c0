package scp11_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"cardkms/derive/scp11"
	"cardkms/kms/fault"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// certify makes a certificate; change may spoil it.
func certify(t testing.TB, name string, public crypto.PublicKey, by *x509.Certificate, signer *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
	}
	if change != nil {
		change(c)
	}
	if by == nil {
		by = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := scp11.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func authority(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }

// TestCard: a card is trusted because of an anchor, within dates, for key agreement on P-256;
// everything else has one answer.
func TestCard(t *testing.T) {
	rootKey, middleKey, cardKey := ecKey(t, elliptic.P384()), ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	root := certify(t, "root", rootKey.Public(), nil, rootKey, authority)
	middle := certify(t, "middle", middleKey.Public(), root, rootKey, authority)
	card := certify(t, "card", cardKey.Public(), middle, middleKey, nil)
	public, err := scp11.Card([]*x509.Certificate{card, middle}, []*x509.Certificate{root}, now)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := cardKey.PublicKey.ECDH(); !public.Equal(want) {
		t.Error("another public key")
	}
	if _, err := scp11.Card([]*x509.Certificate{card}, []*x509.Certificate{middle}, now); err != nil {
		t.Errorf("an anchor that is no root: %v", err)
	}
	if _, err := scp11.Card([]*x509.Certificate{certify(t, "silent", cardKey.Public(), middle, middleKey, func(c *x509.Certificate) { c.KeyUsage = 0 }), middle}, []*x509.Certificate{root}, now); err != nil {
		t.Errorf("a certificate that says nothing of its use: %v", err)
	}
	other := ecKey(t, elliptic.P256())
	edKey, _, _ := ed25519.GenerateKey(rand.Reader)
	for name, c := range map[string]struct {
		chain, anchors []*x509.Certificate
		at             time.Time
	}{
		"no anchors":                 {[]*x509.Certificate{card, middle}, nil, now},
		"another anchor":             {[]*x509.Certificate{card, middle}, []*x509.Certificate{certify(t, "root", other.Public(), nil, other, authority)}, now},
		"a link is missing":          {[]*x509.Certificate{card}, []*x509.Certificate{root}, now},
		"the order":                  {[]*x509.Certificate{middle, card}, []*x509.Certificate{root}, now},
		"expired":                    {[]*x509.Certificate{card, middle}, []*x509.Certificate{root}, now.AddDate(2, 0, 0)},
		"not yet":                    {[]*x509.Certificate{card, middle}, []*x509.Certificate{root}, now.AddDate(-2, 0, 0)},
		"for signatures":             {[]*x509.Certificate{certify(t, "s", cardKey.Public(), middle, middleKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), middle}, []*x509.Certificate{root}, now},
		"an authority's":             {[]*x509.Certificate{middle}, []*x509.Certificate{root}, now},
		"an authority's that agrees": {[]*x509.Certificate{certify(t, "a", cardKey.Public(), middle, middleKey, func(c *x509.Certificate) { c.IsCA = true }), middle}, []*x509.Certificate{root}, now},
		"on P-384":                   {[]*x509.Certificate{certify(t, "p", rootKey.Public(), middle, middleKey, nil), middle}, []*x509.Certificate{root}, now},
		"of Ed25519":                 {[]*x509.Certificate{certify(t, "e", edKey, middle, middleKey, nil), middle}, []*x509.Certificate{root}, now},
		"a middle without power":     {[]*x509.Certificate{certify(t, "u", cardKey.Public(), card, cardKey, nil), card, middle}, []*x509.Certificate{root}, now},
		"a forged signature":         {[]*x509.Certificate{certify(t, "f", cardKey.Public(), certify(t, "middle", other.Public(), root, rootKey, authority), other, nil), middle}, []*x509.Certificate{root}, now},
		"a critical extension": {[]*x509.Certificate{certify(t, "x", cardKey.Public(), middle, middleKey, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), middle}, []*x509.Certificate{root}, now},
	} {
		if _, err := scp11.Card(c.chain, c.anchors, c.at); fault.CodeOf(err) != fault.ProfileMismatch {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, scp11.CertificatesMax + 1} {
		if _, err := scp11.Card(make([]*x509.Certificate, n), nil, now); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%d certificates: %v", n, err)
		}
	}
	for n := range card.Raw {
		if _, err := scp11.ParseCertificate(card.Raw[:n]); fault.CodeOf(err) != fault.InvalidInput {
			t.Fatalf("%d bytes of a certificate: %v", n, err)
		}
	}
	if _, err := scp11.ParseCertificate(bytes.Repeat([]byte{0x30}, scp11.CertificateBytesMax+1)); fault.CodeOf(err) != fault.TooLarge {
		t.Errorf("a long certificate: %v", err)
	}
}
