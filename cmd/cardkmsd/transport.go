package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"cardkms/api/server"
)

// transport is what tls: of the configuration and its files say at one moment.
type transport struct {
	cert    server.Certificate  // that of Vault renews itself
	cas     []*x509.Certificate // of clients
	lists   []*x509.RevocationList
	uris    map[string]bool // of certificates that are revoked
	serials map[string]bool // in decimal, of any CA
	listed  map[listed]bool // by the lists
	files   string          // digest of what was read
}

// listed names a certificate as a revocation list does.
type listed struct{ issuer, serial string }

// transport reads the files under tls:, and checks that they belong together. before is the
// one in force, if any: what it has may have come to its end since.
func (c *config) transport(before *transport) (t transport, err error) {
	read := sha256.New()
	file := func(what, path string) []byte {
		b, rerr := os.ReadFile(c.path(path))
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("reading %s: %w", what, rerr))
		}
		fmt.Fprintln(read, len(b))
		read.Write(b)
		return b
	}
	var cert, key []byte
	if c.TLS.Vault == nil {
		cert, key = file("the server's certificate", c.TLS.Certificate), file("its key", c.TLS.Key)
	}
	cas := file("the clients' CA", c.TLS.ClientCAs)
	var lists []byte
	if c.TLS.CRL != "" {
		lists = file("the revocation lists", c.TLS.CRL)
	}
	if err != nil {
		return t, err
	}
	t.files = hex.EncodeToString(read.Sum(nil))
	if t.cert, err = c.certificate(cert, key); err != nil {
		return t, fmt.Errorf("reading the server's certificate: %w", err)
	}
	if t.cas, err = certificates(cas); err != nil {
		return t, fmt.Errorf("tls.clientCAs: %w", err)
	}
	if t.lists, err = revocationLists(lists, t.cas); err != nil {
		return t, fmt.Errorf("tls.crl: %w", err)
	}
	if err := before.newlyOver(t.lists, time.Now()); err != nil {
		return t, fmt.Errorf("tls.crl: %w", err)
	}
	if c.TLS.CRL != "" && len(t.lists) == 0 {
		return t, errors.New("tls.crl holds no revocation list")
	}
	t.listed = map[listed]bool{}
	for _, list := range t.lists {
		for _, e := range list.RevokedCertificateEntries {
			t.listed[listed{string(list.RawIssuer), e.SerialNumber.String()}] = true
		}
	}
	t.uris, t.serials, err = c.revoked()
	return t, err
}

// blocks returns what the PEM blocks of one type hold. A file that was cut is refused:
// what is left of a revocation list would revoke less.
func blocks(kind string, text []byte) (all [][]byte, err error) {
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != kind {
			return nil, fmt.Errorf("it holds a %s, which does not belong there", block.Type)
		}
		all = append(all, block.Bytes)
	}
	if len(all) != begun {
		return nil, fmt.Errorf("%d of its %d blocks are damaged", begun-len(all), begun)
	}
	return all, nil
}

func certificates(text []byte) (all []*x509.Certificate, err error) {
	ders, err := blocks("CERTIFICATE", text)
	for _, der := range ders {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		all = append(all, ca)
	}
	if err == nil && len(all) == 0 {
		err = errors.New("it holds no certificate")
	}
	return all, err
}

// newlyOver refuses a list that is over, and so says nothing of what was revoked since,
// unless it is in force: it still revokes what it revoked, its end is watched as a metric,
// and a reload that it held up could not revoke anybody either.
func (t *transport) newlyOver(lists []*x509.RevocationList, now time.Time) error {
	for _, list := range lists {
		inForce := t != nil && slices.ContainsFunc(t.lists, func(had *x509.RevocationList) bool { return bytes.Equal(had.Raw, list.Raw) })
		if !inForce && now.After(list.NextUpdate) {
			return fmt.Errorf("the list of %s is over since %s", list.Issuer, list.NextUpdate.Format(time.RFC3339))
		}
	}
	return nil
}

// revocationLists reads whole lists that client CAs signed.
func revocationLists(text []byte, cas []*x509.Certificate) (all []*x509.RevocationList, err error) {
	ders, err := blocks("X509 CRL", text)
	for _, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return list.CheckSignatureFrom(ca) == nil }) {
			return nil, fmt.Errorf("no client CA signed the list of %s", list.Issuer)
		}
		// [RFC 5280], Section 5.2: a list with a critical extension that is not understood,
		// such as one that tells of changes only, must not be used.
		if slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
			return nil, fmt.Errorf("the list of %s is not a whole one", list.Issuer)
		}
		all = append(all, list)
	}
	return all, err
}

// revoked reads tls.revoked.
func (c *config) revoked() (uris, serials map[string]bool, err error) {
	uris, serials = map[string]bool{}, map[string]bool{}
	for _, r := range c.TLS.Revoked {
		number, isSerial := strings.CutPrefix(r, "serial:")
		n, ok := new(big.Int).SetString(number, 16)
		switch {
		case isSerial && ok && n.Sign() > 0:
			serials[n.String()] = true
		case strings.HasPrefix(r, "spiffe://"):
			uris[r] = true
		default:
			err = errors.Join(err, fmt.Errorf("tls.revoked: %q is neither a SPIFFE URI nor serial:HEX", r))
		}
	}
	return uris, serials, err
}

// refuses reports whether a chain that was verified once is not to be believed any more:
// its certificate or one between it and the CA is revoked, or the CA is no longer one.
func (t transport) refuses(chain []*x509.Certificate) bool {
	root := chain[len(chain)-1]
	return !slices.ContainsFunc(t.cas, root.Equal) || slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		serial := c.SerialNumber.String()
		return t.serials[serial] || t.listed[listed{string(c.RawIssuer), serial}] ||
			slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return t.uris[u.String()] })
	})
}

func (t transport) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range t.cas {
		pool.AddCert(ca)
	}
	return pool
}

// ends returns when the server's certificate, the first of the clients' CAs and the first
// of the revocation lists are over.
func (t transport) ends() map[string]time.Time {
	out := map[string]time.Time{}
	if leaf, err := t.leaf(); err == nil {
		out["server"] = leaf.NotAfter
	}
	first := func(name string, end time.Time) {
		if had, ok := out[name]; !ok || end.Before(had) {
			out[name] = end
		}
	}
	for _, ca := range t.cas {
		first("client-ca", ca.NotAfter)
	}
	for _, list := range t.lists {
		first("crl", list.NextUpdate)
	}
	return out
}

// certificate is what the server proves itself by: that of Vault, or that of files.
func (c *config) certificate(cert, key []byte) (server.Certificate, error) {
	if c.TLS.Vault != nil {
		return c.fromVault.certificate.Get, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, err
}

// leaf returns the server's certificate of the moment.
func (t transport) leaf() (*x509.Certificate, error) {
	cert, err := t.cert(nil)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(cert.Certificate[0])
}
