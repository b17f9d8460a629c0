package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/api/client"
)

// reissued makes the certificates of a site anew, under a CA whose key the test holds.
func (s *site) reissued() *devCA {
	s.t.Helper()
	ca, err := newDevCA(filepath.Join(s.dir, "tls"))
	s.must("", err)
	s.must("", ca.server())
	for _, c := range devClients {
		s.must("", ca.client(c.name, devDomain+c.path))
	}
	return ca
}

// newReloadSite is a site with such certificates.
func newReloadSite(t *testing.T, env ...string) (*site, *devCA) {
	s := newSite(t)
	s.stop()
	ca := s.reissued()
	s.env = env
	s.serve()
	return s, ca
}

// hangup sends SIGHUP and waits for one more of the message that must come of it.
func (s *site) hangup(message string) {
	s.t.Helper()
	before := strings.Count(s.log.String(), message)
	s.must("", s.server.Process.Signal(syscall.SIGHUP))
	s.until("the log says: "+message, func() bool { return strings.Count(s.log.String(), message) > before })
}

const (
	reloaded = `"msg":"the configuration was reloaded"`
	kept     = `"msg":"the configuration is refused, and the one before stays in force"`
)

// reads reports whether a client reads the log on the connection that it has.
func reads(t *testing.T, c *client.Client) api.Code {
	t.Helper()
	_, err := c.AuditCheckpoint(t.Context())
	var p *api.Problem
	switch {
	case err == nil:
		return ""
	case errors.As(err, &p):
		return p.Code
	}
	return api.Code(err.Error())
}

// TestReload: SIGHUP puts who may call in force, whole or not at all, also for connections
// that are open; the log says so and with which configuration.
func TestReload(t *testing.T) {
	s, _ := newReloadSite(t)
	auditor := s.client("auditor")
	if code := reads(t, auditor); code != "" {
		t.Fatalf("the auditor gets %s", code)
	}
	b, err := os.ReadFile(s.config())
	s.must("", err)
	good := string(b)
	write := func(text string) { s.configure(func(string) string { return text }) }
	without := strings.Replace(good, devDomain+"/role/auditor/grace", devDomain+"/role/auditor/another", 1)
	for what, c := range map[string]struct{ text, why string }{
		"an unknown field":         {without + "unknown: 1\n", "unknown"},
		"no YAML":                  {"{", "flow mapping"},
		"a field that needs a new": {without + "limits: {channels: 7}\n", "limits changed"},
		"another issuer":           {strings.Replace(without, "issuer: "+devIssuer, "issuer: other", 1), "the issuers changed"},
		"a role that is none":      {strings.Replace(without, "role: operator", "role: root", 1), "no such role"},
		"a role of another URI":    {strings.Replace(without, "role: operator", "role: auditor", 1), "different roles"},
		"a certificate not there":  {strings.Replace(without, "tls/server.pem", "tls/none.pem", 1), "none.pem"},
		"somebody else's key":      {strings.Replace(without, "tls/server.key", "tls/auditor.key", 1), "certificate"},
		"revoking nonsense":        {strings.Replace(without, "tls:\n", "tls:\n  revoked: [\"everybody\"]\n", 1), "neither a SPIFFE URI"},
	} {
		write(c.text)
		s.hangup(kept)
		lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, c.why) {
			t.Errorf("%s: the log says %s, want %q", what, last, c.why)
		}
		if code := reads(t, auditor); code != "" {
			t.Fatalf("after %s the auditor gets %s", what, code)
		}
	}
	write(without)
	s.hangup(reloaded)
	if code := reads(t, auditor); code != api.Unauthenticated {
		t.Errorf("an auditor that the configuration has no more gets %q", code)
	}
	write(good)
	s.hangup(reloaded)
	if code := reads(t, auditor); code != "" {
		t.Errorf("one that it has again gets %s", code)
	}
	cfg, err := load(s.config())
	s.must("", err)
	s.until("the checkpoint names the configuration", func() bool {
		c, err := auditor.AuditCheckpoint(t.Context())
		return err == nil && strings.Contains(string(c), "\nconfig "+cfg.digest+"\n")
	})
	s.stop()
	if e := s.last("service.reload"); e.Detail["config"] != cfg.hexDigest() || len(e.Detail["certificate"]) != 64 {
		t.Errorf("the log says %+v", e)
	}
}

// TestRevokedConnections: who is revoked is not served on a connection that is open, and
// makes no new one.
func TestRevokedConnections(t *testing.T) {
	s, ca := newReloadSite(t)
	serial := certificateIn(t, filepath.Join(s.dir, "tls", "auditor.pem")).SerialNumber
	list := filepath.Join(s.dir, "tls", "list.pem")
	revoke := map[string]struct{ field, why string }{
		"by URI":         {"revoked: [" + devDomain + "/role/auditor/grace]", ""},
		"by number":      {fmt.Sprintf("revoked: [\"serial:%X\"]", serial), ""},
		"by a list":      {"crl: tls/list.pem", ""},
		"by an old list": {"crl: tls/list.pem", "is over"},
		"by nobody":      {"crl: tls/list.pem", "no client CA signed"},
		"by a part":      {"crl: tls/list.pem", "not a whole one"},
		"by a cut file":  {"crl: tls/list.pem", "1 of its 2 blocks are damaged"},
	}
	b, err := os.ReadFile(s.config())
	s.must("", err)
	for name, c := range revoke {
		t.Run(name, func(t *testing.T) {
			auditor := s.client("auditor")
			if code := reads(t, auditor); code != "" {
				t.Fatalf("the auditor gets %s", code)
			}
			signer, until, part := ca, time.Now().Add(time.Hour), false
			switch name {
			case "by an old list":
				until = time.Now().Add(-time.Minute)
			case "by nobody":
				signer, err = newDevCA(t.TempDir())
				s.must("", err)
			case "by a part":
				part = true
			}
			text := signer.revocationList(t, serial, until, part)
			if name == "by a cut file" {
				text = append(text, text[:len(text)-20]...)
			}
			s.must("", os.WriteFile(list, text, 0o600))
			s.configure(func(text string) string { return strings.Replace(text, "tls:\n", "tls:\n  "+c.field+"\n", 1) })
			defer s.configure(func(string) string { return string(b) })
			if c.why != "" {
				s.hangup(kept)
				if !strings.Contains(s.log.String(), c.why) || reads(t, auditor) != "" {
					t.Errorf("the log does not say %q, or the auditor is not served", c.why)
				}
				return
			}
			s.hangup(reloaded)
			if code := reads(t, auditor); code != api.Unauthenticated {
				t.Errorf("on the open connection: %q", code)
			}
			if code := reads(t, s.client("auditor")); code == "" || code == api.Unauthenticated {
				t.Errorf("a new connection is made, and gets %q", code)
			}
			if err := s.readyz(); err != nil {
				t.Errorf("somebody else: %v", err)
			}
			s.configure(func(string) string { return string(b) })
			s.hangup(reloaded)
		})
	}
}

// TestNewlyOver: a revocation list that comes to its end while it is in force goes on to
// revoke, and holds up no other change. Nobody begins with one that is over.
func TestNewlyOver(t *testing.T) {
	end := time.Unix(1_800_000_000, 0)
	list, other := &x509.RevocationList{Raw: []byte("list"), NextUpdate: end}, &x509.RevocationList{Raw: []byte("other"), NextUpdate: end}
	for what, tt := range map[string]struct {
		before *transport
		now    time.Time
		ok     bool
	}{
		"at a start":             {nil, end, true},
		"at a start, over":       {nil, end.Add(time.Second), false},
		"in force":               {&transport{lists: []*x509.RevocationList{other, list}}, end.Add(time.Hour), true},
		"another is in force":    {&transport{lists: []*x509.RevocationList{other}}, end.Add(time.Second), false},
		"another, and it is not": {&transport{lists: []*x509.RevocationList{other}}, end, true},
	} {
		if err := tt.before.newlyOver([]*x509.RevocationList{list}, tt.now); (err == nil) != tt.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestStartWithOldList: a process that starts does not begin with a list that is over.
func TestStartWithOldList(t *testing.T) {
	s, ca := newReloadSite(t)
	serial := certificateIn(t, filepath.Join(s.dir, "tls", "auditor.pem")).SerialNumber
	s.must("", os.WriteFile(filepath.Join(s.dir, "tls", "list.pem"), ca.revocationList(t, serial, time.Now().Add(-time.Minute), false), 0o600))
	s.configure(func(text string) string { return strings.Replace(text, "tls:\n", "tls:\n  crl: tls/list.pem\n", 1) })
	s.stop()
	if out, err := s.cardkmsd("", "serve", "--config", s.config()); err == nil || !strings.Contains(out, "is over since") {
		t.Errorf("%v, %s", err, out)
	}
}

// TestRevokedIntermediate: a chain is refused for any certificate in it.
func TestRevokedIntermediate(t *testing.T) {
	root := &x509.Certificate{Raw: []byte("root"), SerialNumber: big.NewInt(1)}
	between := &x509.Certificate{RawIssuer: []byte("root"), SerialNumber: big.NewInt(2)}
	leaf := &x509.Certificate{RawIssuer: []byte("between"), SerialNumber: big.NewInt(3)}
	for what, tt := range map[string]struct {
		t    transport
		want bool
	}{
		"nothing is revoked":           {transport{}, false},
		"the intermediate, by its CA":  {transport{listed: map[listed]bool{{"root", "2"}: true}}, true},
		"the intermediate, by number":  {transport{serials: map[string]bool{"2": true}}, true},
		"that number by another CA":    {transport{listed: map[listed]bool{{"between", "2"}: true}}, false},
		"the CA is one no more":        {transport{cas: []*x509.Certificate{{Raw: []byte("other")}}}, true},
		"the certificate, by its CA":   {transport{listed: map[listed]bool{{"between", "3"}: true}}, true},
		"another one of the same name": {transport{listed: map[listed]bool{{"between", "4"}: true}}, false},
	} {
		if tt.t.cas == nil {
			tt.t.cas = []*x509.Certificate{root}
		}
		if got := tt.t.refuses([]*x509.Certificate{leaf, between, root}); got != tt.want {
			t.Errorf("%s: refused is %v", what, got)
		}
	}
}

// revocationList has the CA revoke a number.
func (ca *devCA) revocationList(t *testing.T, serial *big.Int, until time.Time, part bool) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: serial, RevocationTime: time.Now()}}}
	if part {
		list.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func certificateIn(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := certificates(b)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// TestCertificateIsRenewed: another certificate is served a moment after its files
// changed; one that does not fit its key is not. A CA that is one no more ends its
// connections.
func TestCertificateIsRenewed(t *testing.T) {
	s, ca := newReloadSite(t, "CARDKMSD_TEST_FILES_EVERY=100ms")
	served := func() *big.Int {
		cas := x509.NewCertPool()
		cas.AddCert(ca.cert)
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "tls", "auditor.pem"), filepath.Join(s.dir, "tls", "auditor.key"))
		s.must("", err)
		c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: cas, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}}).
			DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "https://"))
		s.must("", err)
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber
	}
	auditor := s.client("auditor")
	before := served()
	s.must("", ca.server())
	s.until("the new certificate is served", func() bool { return served().Cmp(before) != 0 })
	if code := reads(t, auditor); code != "" {
		t.Errorf("on the open connection: %s", code)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "tls", "server.key"))
	s.must("", err)
	newest := served()
	s.must("", os.WriteFile(filepath.Join(s.dir, "tls", "server.key"), []byte("nonsense"), 0o600))
	s.until("it says that it is refused", func() bool { return strings.Contains(s.log.String(), kept) })
	if served().Cmp(newest) != 0 {
		t.Error("another certificate is served")
	}
	s.must("", os.WriteFile(filepath.Join(s.dir, "tls", "server.key"), key, 0o600))
	s.reissued()
	s.until("the old CA is one no more", func() bool { return reads(t, auditor) == api.Unauthenticated })
}
