package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/audit"
	"cardkms/kms/update"

	"golang.org/x/mod/sumdb/tlog"
)

// authority is a CA of the tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = issue(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	a.pool.AddCert(a.cert)
	return a
}

func issue(t testing.TB, a *authority, tmpl *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	tmpl.NotAfter = time.Now().Add(time.Hour)
	return issueAs(t, a, tmpl)
}

// expired issues an auditor's certificate that was good until a minute ago.
func (a *authority) expired(t testing.TB) *x509.Certificate {
	t.Helper()
	u, err := url.Parse(uriAuditor)
	must(t, err)
	c, _ := issueAs(t, a, &x509.Certificate{
		URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotAfter: time.Now().Add(-time.Minute),
	})
	return c
}

// issueAs issues a certificate until its NotAfter.
func issueAs(t testing.TB, a *authority, tmpl *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl.NotBefore = time.Now().Add(-time.Hour)
	parent, signer := tmpl, crypto.Signer(key)
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

// leaf issues a certificate with these URIs; none for the server.
func (a *authority) leaf(t testing.TB, use x509.ExtKeyUsage, uris ...string) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "test"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use}}
	if use == x509.ExtKeyUsageServerAuth {
		tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		must(t, err)
		tmpl.URIs = append(tmpl.URIs, u)
	}
	cert, key := issue(t, a, tmpl)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// listen serves a world over TLS and returns its address.
func (w *world) listen(a *authority) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	cert := a.leaf(w.t, x509.ExtKeyUsageServerAuth)
	srv := HTTPServer(w.handler, TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }, a.pool))
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	w.t.Cleanup(func() {
		must(w.t, srv.Shutdown(context.Background()))
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

func dial(t testing.TB, a *authority, addr string, cert tls.Certificate) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{BaseURL: addr, Cert: cert, RootCAs: a.pool, Timeout: 10 * time.Second})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// TestCertificates tries every wrong certificate on a real listener.
func TestCertificates(t *testing.T) {
	w := newWorld(t)
	ca, stranger := newAuthority(t), newAuthority(t)
	addr := w.listen(ca)
	for name, c := range map[string]struct {
		cert tls.Certificate
		code api.Code // empty: the handshake fails
	}{
		"none":            {tls.Certificate{Certificate: [][]byte{}}, ""},
		"unknown CA":      {stranger.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor), ""},
		"not for clients": {ca.leaf(t, x509.ExtKeyUsageServerAuth, uriAuditor), ""},
		"no URI":          {ca.leaf(t, x509.ExtKeyUsageClientAuth), api.Unauthenticated},
		"two URIs":        {ca.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor, uriUpdate), api.Unauthenticated},
		"not configured":  {ca.leaf(t, x509.ExtKeyUsageClientAuth, "spiffe://test.example/role/auditor/9"), api.Unauthenticated},
		"other role":      {ca.leaf(t, x509.ExtKeyUsageClientAuth, strings.Replace(uriUpdate, "update-server", "auditor", 1)), api.Unauthenticated},
		"wrong role":      {ca.leaf(t, x509.ExtKeyUsageClientAuth, uriOperator), api.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkpointWith(t, ca, addr, c.cert)
			var p *api.Problem
			switch {
			case c.code == "" && (err == nil || errors.As(err, &p)):
				t.Errorf("the handshake succeeded: %v", err)
			case c.code != "" && (!errors.As(err, &p) || p.Code != c.code):
				t.Errorf("want %s, got %v", c.code, err)
			}
		})
	}
	must(t, checkpointWith(t, ca, addr, ca.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor)))
	// Probes need a certificate of the CA and no more.
	_, err := dial(t, ca, addr, ca.leaf(t, x509.ExtKeyUsageClientAuth)).Ready(t.Context())
	must(t, err)
}

// checkpointWith asks for a checkpoint over a connection of its own. A client
// without a certificate cannot be made with package client.
func checkpointWith(t *testing.T, ca *authority, addr string, cert tls.Certificate) error {
	if len(cert.Certificate) > 0 {
		_, err := dial(t, ca, addr, cert).AuditCheckpoint(t.Context())
		return err
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(addr + "/healthz")
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// TestOldTLS checks that nothing below TLS 1.3 is spoken.
func TestOldTLS(t *testing.T) {
	w := newWorld(t)
	ca := newAuthority(t)
	addr := w.listen(ca)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(addr, "https://"), &tls.Config{
		RootCAs: ca.pool, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor)},
	})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// TestClient updates a card with package client over mutual TLS, then reads what
// remains as an auditor and checks the log's proof.
func TestClient(t *testing.T) {
	w := newWorld(t)
	ca := newAuthority(t)
	addr := w.listen(ca)
	ctx := t.Context()
	c := dial(t, ca, addr, ca.leaf(t, x509.ExtKeyUsageClientAuth, uriUpdate))
	p := w.updateWith(c)
	auditor := dial(t, ca, addr, ca.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor))
	got, err := auditor.Package(ctx, "acme", p.ID)
	must(t, err)
	if got.State != api.PackageConfirmed {
		t.Errorf("%+v", got)
	}
	card, err := auditor.Card(ctx, "acme", p.Card.String())
	must(t, err)
	if card.Package != p.ID || card.SequenceCounter == nil || *card.SequenceCounter != 2 {
		t.Errorf("%+v", card)
	}
	cards, err := auditor.Cards(ctx, "acme", api.Page{Size: 10})
	must(t, err)
	images, err2 := auditor.Images(ctx, "acme", api.Page{})
	must(t, err2)
	keys, err := auditor.Keys(ctx, "acme")
	must(t, err)
	if len(cards.Cards) != 1 || len(images.Images) != 1 || len(keys) != 2 {
		t.Errorf("%d cards, %d images, %d keys", len(cards.Cards), len(images.Images), len(keys))
	}
	checkLog(t, auditor)
	must(t, auditor.Healthy(ctx))
	document, err := auditor.OpenAPI(ctx)
	must(t, err)
	if !bytes.Equal(document, api.OpenAPI) {
		t.Error("the served document is not the committed one")
	}
}

// updateWith updates the world's card, in a first channel and after its reset in
// a second.
func (w *world) updateWith(c *client.Client) api.Package {
	t, ctx := w.t, context.Background()
	in, content := w.image("cos-1-1", 1500)
	_, err := c.RegisterImage(ctx, "acme", in)
	must(t, err)
	im, err := c.UploadImage(ctx, "acme", "cos-1-1", int64(len(content)), bytes.NewReader(content))
	must(t, err)
	if im.State != api.ImageRegistered {
		t.Fatalf("%+v", im)
	}
	ch := w.channelWith(c)
	p, err := c.CreatePackage(ctx, "acme", api.CreatePackage{
		Channel: ch, Image: "cos-1-1", UpdateKey: "upd", KVN: 0x5A, Status: w.exchange(c, ch, update.GetStatus().Bytes()),
	})
	must(t, err)
	for _, step := range []string{api.StepOpen, api.StepChunks, api.StepCommit} {
		req := api.PackageScript{Channel: ch, Step: step}
		if step == api.StepChunks {
			req.Chunks = p.MissingChunks()
		}
		script, err := c.PackageScript(ctx, "acme", p.ID, req)
		must(t, err)
		var responses [][]byte
		for _, command := range script {
			responses = append(responses, w.transmit(command))
		}
		_, err = c.Unwrap(ctx, "acme", ch, responses)
		must(t, err)
	}
	w.card.PowerOff()
	w.card.PowerOn()
	ch = w.channelWith(c)
	p, err = c.ConfirmPackage(ctx, "acme", p.ID, api.ConfirmPackage{Channel: ch, Receipt: w.exchange(c, ch, update.GetReceipt().Bytes())})
	must(t, err)
	must(t, c.CloseChannel(ctx, "acme", ch))
	return p
}

func (w *world) channelWith(c *client.Client) string {
	w.t.Helper()
	ctx := context.Background()
	ch, err := c.OpenChannel(ctx, "acme", api.OpenChannel{Key: "isd"})
	must(w.t, err)
	a, err := c.Authenticate(ctx, "acme", ch.ID, api.Authenticate{Response: w.transmit(ch.InitializeUpdate)})
	must(w.t, err)
	w.transmit(a.ExternalAuthenticate)
	return ch.ID
}

func (w *world) exchange(c *client.Client, ch string, command []byte) []byte {
	w.t.Helper()
	out, err := c.Wrap(context.Background(), "acme", ch, [][]byte{command})
	must(w.t, err)
	return w.transmit(out[0])
}

// checkLog checks the proof of the first entry against the signed checkpoint.
func checkLog(t *testing.T, c *client.Client) {
	t.Helper()
	entries, err := c.AuditEntries(t.Context(), 0, 1)
	must(t, err)
	note, err := c.AuditCheckpoint(t.Context())
	must(t, err)
	text, _, _ := strings.Cut(string(note), "\n\n")
	cp, err := audit.ParseCheckpoint(text + "\n")
	must(t, err)
	proof, err := c.AuditProof(t.Context(), 0, cp.Size)
	must(t, err)
	var path tlog.RecordProof
	for _, h := range proof.Hashes {
		path = append(path, tlog.Hash(h))
	}
	must(t, audit.CheckEntry(path, cp, 0, []byte(entries.Entries[0].Text)))
	if _, err := c.AuditProof(t.Context(), cp.Size+100, cp.Size+101); err == nil {
		t.Error("a proof of an entry that is not there")
	}
}
