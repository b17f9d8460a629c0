package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// devCA issues the certificates of a development set-up. Its key stays in
// memory: whoever needs another certificate makes another set-up.
type devCA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const devLife = 365 * 24 * time.Hour

func newDevCA(dir string) (*devCA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &devCA{dir: dir, key: key}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cardkms development CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLenZero: true,
	}
	if ca.cert, err = ca.issue(t, t, &key.PublicKey); err != nil {
		return nil, err
	}
	return ca, writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.cert.Raw, 0o644)
}

func (ca *devCA) issue(t, parent *x509.Certificate, pub any) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(devLife)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// server writes server.pem and server.key for this machine's loopback names.
func (ca *devCA) server() error {
	return ca.leaf("server", &x509.Certificate{
		Subject:  pkix.Name{CommonName: "cardkmsd"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// client writes NAME.pem and NAME.key for one identity.
func (ca *devCA) client(name, id string) error {
	u, err := url.Parse(id)
	if err != nil {
		return err
	}
	return ca.leaf(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{u},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (ca *devCA) leaf(name string, t *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	cert, err := ca.issue(t, ca.cert, &key.PublicKey)
	if err != nil {
		return fmt.Errorf("issuing the certificate of %s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(ca.dir, name+".key"), "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(filepath.Join(ca.dir, name+".pem"), "CERTIFICATE", cert.Raw, 0o644)
}

// releasePair writes an Ed25519 key pair that signs images.
func releasePair(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "release.key"), "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	if der, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "release.pem"), "PUBLIC KEY", der, 0o644)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
