package server

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cardkms/api"
)

const uriProxy = "spiffe://test.example/proxy/lb"

// forwards returns what a load balancer says of a certificate.
func forwards(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }

// TestProxy: a load balancer says whose certificate it saw; nobody else does, and it is
// verified once more.
func TestProxy(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	w := newWorld(t, func(c *Config) { c.Proxies, c.ClientCAs = []string{uriProxy}, ours.pool })
	call := func(as string, seen ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/v1/audit/checkpoint", nil)
		r.TLS = certificate(as)
		for _, s := range seen {
			r.Header.Add("Client-Cert", s)
		}
		r.Header.Add("X-Forwarded-For", "203.0.113.9, 192.0.2.7")
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		return rec
	}
	of := func(a *authority, use x509.ExtKeyUsage, uris ...string) string {
		return forwards(a.leaf(t, use, uris...).Certificate[0])
	}
	const client = x509.ExtKeyUsageClientAuth
	auditor := of(ours, client, uriAuditor)
	if rec := call(uriProxy, auditor); rec.Code != http.StatusOK {
		t.Errorf("a forwarded auditor: %d %s", rec.Code, rec.Body)
	}
	if !strings.Contains(w.log.String(), uriAuditor) {
		t.Error("the access log does not name the client")
	}
	for name, rec := range map[string]*httptest.ResponseRecorder{
		"nobody forwarded":         call(uriProxy),
		"two forwarded":            call(uriProxy, auditor, auditor),
		"empty":                    call(uriProxy, ""),
		"one colon":                call(uriProxy, ":"),
		"no colons":                call(uriProxy, strings.Trim(auditor, ":")),
		"no base64":                call(uriProxy, ":%%%:"),
		"no certificate":           call(uriProxy, ":AAAA:"),
		"a byte more":              call(uriProxy, forwards(append(ours.leaf(t, client, uriAuditor).Certificate[0], 0))),
		"of another CA":            call(uriProxy, of(foreign, client, uriAuditor)),
		"expired":                  call(uriProxy, forwards(ours.expired(t).Raw)),
		"of a server":              call(uriProxy, of(ours, x509.ExtKeyUsageServerAuth, uriAuditor)),
		"of two names":             call(uriProxy, of(ours, client, uriAuditor, uriAuditor)),
		"unknown":                  call(uriProxy, of(ours, client, "spiffe://test.example/role/auditor/9")),
		"the load balancer itself": call(uriProxy, of(ours, client, uriProxy)),
		"by a client":              call(uriAuditor, auditor),
		"by a client, for another": call(uriUpdate, auditor),
	} {
		t.Run(name, func(t *testing.T) { refused(t, rec, api.Unauthenticated) })
	}
	for name, c := range map[string]Config{
		"no URI":   {Service: w.service, Admission: Admission{Clients: w.server.admitted.Load().clients, Proxies: []string{"lb"}, ClientCAs: ours.pool}},
		"a client": {Service: w.service, Admission: Admission{Clients: w.server.admitted.Load().clients, Proxies: []string{uriAuditor}, ClientCAs: ours.pool}},
		"no CAs":   {Service: w.service, Admission: Admission{Clients: w.server.admitted.Load().clients, Proxies: []string{uriProxy}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestForwardedFor(t *testing.T) {
	for header, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "1.2.3.4, 192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8::1%eth0": "2001:db8::1", "": "", "evil": "", "192.0.2.7,": "",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Forwarded-For", header)
		if got := forwardedFor(r); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}
