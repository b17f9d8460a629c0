package server

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/kms"
)

// TestIdentity checks which verified certificates name a client.
func TestIdentity(t *testing.T) {
	w := newWorld(t)
	over := certificate(uriAuditor)
	over.VerifiedChains[0][0].NotAfter = time.Now().Add(-time.Second)
	for name, state := range map[string]*tls.ConnectionState{
		"over":             over,
		"no TLS":           nil,
		"not verified":     {PeerCertificates: certificate(uriAuditor).VerifiedChains[0]},
		"empty chain":      {VerifiedChains: [][]*x509.Certificate{{}}},
		"no URI":           certificate(),
		"two URIs":         certificate(uriAuditor, uriUpdate),
		"twice the same":   certificate(uriAuditor, uriAuditor),
		"another and ours": certificate("https://test.example/x", uriAuditor),
		"https":            certificate("https://test.example/role/auditor"),
		"unknown":          certificate("spiffe://test.example/role/auditor/2"),
		"other domain":     certificate("spiffe://evil.example/role/auditor"),
		"no role":          certificate("spiffe://test.example/auditor/x"),
		"two roles":        certificate("spiffe://test.example/role/operator/role/auditor"),
		"role of nobody":   certificate("spiffe://test.example/role/root"),
		"user":             certificate("spiffe://x@test.example/role/auditor"),
		"port":             certificate("spiffe://test.example:1/role/auditor"),
		"query":            certificate(uriAuditor + "?x=1"),
		"fragment":         certificate(uriAuditor + "#x"),
		"slash":            certificate(uriAuditor + "/"),
		"dots":             certificate("spiffe://test.example/x/../role/auditor"),
		"escaped":          certificate("spiffe://test.example/role/%61uditor"),
		"upper case":       certificate("SPIFFE://test.example/role/auditor%00"),
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/v1/audit/checkpoint", nil)
			r.TLS = state
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, r)
			refused(t, rec, api.Unauthenticated)
		})
	}
	if rec := w.do(ask{as: uriAuditor, method: http.MethodGet, path: "/v1/audit/checkpoint"}); rec.Code != http.StatusOK {
		t.Errorf("the auditor: %d %s", rec.Code, rec.Body)
	}
}

// TestConfig checks what New refuses.
func TestConfig(t *testing.T) {
	w := newWorld(t)
	known := map[string]kms.Caller{uriAuditor: {Role: kms.Auditor}}
	for name, c := range map[string]Config{
		"no service":     {Admission: Admission{Clients: known}},
		"no clients":     {Service: w.service},
		"other role":     {Service: w.service, Admission: Admission{Clients: map[string]kms.Caller{uriAuditor: {Role: kms.Operator}}}},
		"other identity": {Service: w.service, Admission: Admission{Clients: map[string]kms.Caller{uriAuditor: {Role: kms.Auditor, ID: uriOperator}}}},
		"not a URI":      {Service: w.service, Admission: Admission{Clients: map[string]kms.Caller{"auditor": {Role: kms.Auditor}}}},
		"long URI":       {Service: w.service, Admission: Admission{Clients: map[string]kms.Caller{"spiffe://a" + strings.Repeat("/a", 300) + "/role/auditor": {Role: kms.Auditor}}}},
		"limit":          {Service: w.service, Admission: Admission{Clients: known}, Limits: Limits{ReplaysMax: -1}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Service: w.service, Admission: Admission{Clients: known}}); err != nil {
		t.Error(err)
	}
}

// TestHealth checks that probes need no known client.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	for path, status := range map[string]string{"/healthz": "ok", "/readyz": "ready"} {
		if h := want[api.Health](w, w.do(ask{method: http.MethodGet, path: path})); h.Status != status {
			t.Errorf("%s: %+v", path, h)
		}
	}
	w = newWorld(t, func(c *Config) { c.Degraded = func() []string { return []string{"vault"} } })
	if h := want[api.Health](w, w.do(ask{method: http.MethodGet, path: "/readyz"})); h.Status != "degraded" || len(h.Degraded) != 1 || h.Degraded[0] != "vault" {
		t.Errorf("degraded: %+v", h)
	}
}
