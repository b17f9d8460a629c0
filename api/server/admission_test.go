package server

import (
	"crypto/x509"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"cardkms/api"
	"cardkms/kms"
)

// checkpoint asks for the newest checkpoint, which auditors may see.
func (w *world) checkpoint(as string) *httptest.ResponseRecorder {
	return w.do(ask{as: as, method: http.MethodGet, path: "/v1/audit/checkpoint"})
}

// TestRevoked: a revoked certificate, a load balancer's too, is refused at the next
// request.
func TestRevoked(t *testing.T) {
	ours := newAuthority(t)
	revoked := ""
	w := newWorld(t, func(c *Config) {
		c.Proxies, c.ClientCAs = []string{uriProxy}, ours.pool
		c.Revoked = func(chain []*x509.Certificate) bool { return chain[0].URIs[0].String() == revoked }
	})
	forwarded := func() *httptest.ResponseRecorder {
		return w.do(ask{as: uriProxy, method: http.MethodGet, path: "/v1/audit/checkpoint", header: map[string]string{
			"Client-Cert": forwards(ours.leaf(t, x509.ExtKeyUsageClientAuth, uriAuditor).Certificate[0]),
		}})
	}
	for _, rec := range []*httptest.ResponseRecorder{w.checkpoint(uriAuditor), forwarded()} {
		if rec.Code != http.StatusOK {
			t.Fatalf("%d: %s", rec.Code, rec.Body)
		}
	}
	revoked = uriAuditor
	refused(t, w.checkpoint(uriAuditor), api.Unauthenticated)
	refused(t, forwarded(), api.Unauthenticated)
	revoked = uriProxy
	if rec := w.checkpoint(uriAuditor); rec.Code != http.StatusOK {
		t.Errorf("another one's revocation: %d", rec.Code)
	}
	refused(t, forwarded(), api.Unauthenticated)
}

// TestAdmissionChanges: a new admission is in force at the next request; one that is
// wrong changes nothing.
func TestAdmissionChanges(t *testing.T) {
	w := newWorld(t)
	s := &Server{Handler: w.handler, server: w.server}
	others := maps.Clone(w.server.admitted.Load().clients)
	delete(others, uriAuditor)
	if _, err := s.Prepare(Admission{}); err == nil {
		t.Error("nobody is let in, and that is accepted")
	}
	apply, err := s.Prepare(Admission{Clients: others})
	must(t, err)
	if rec := w.checkpoint(uriAuditor); rec.Code != http.StatusOK {
		t.Errorf("before it is in force: %d", rec.Code)
	}
	apply()
	refused(t, w.checkpoint(uriAuditor), api.Unauthenticated)
}

// TestOwnQuota: a client's own limits bound it, and nobody else.
func TestOwnQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Limits.RequestsPerSecond = 1000
		c.Clients[uriAuditor] = kms.Caller{Role: kms.Auditor, RequestsPerSecond: 3}
		c.Clients[uriUpdate] = kms.Caller{Role: kms.UpdateServer, Issuer: "acme", Cards: kms.AllCards(), ChannelsMax: 2}
	})
	limited := 0
	for range 20 {
		if w.checkpoint(uriAuditor).Code == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited < 10 { // the window may turn while the test runs
		t.Errorf("%d of 20 requests were refused", limited)
	}
	open := func() *httptest.ResponseRecorder {
		return w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: api.OpenChannel{Key: "isd"}})
	}
	for range 2 {
		if rec := open(); rec.Code != http.StatusCreated {
			t.Fatalf("%d: %s", rec.Code, rec.Body)
		}
	}
	refused(t, open(), api.RateLimited)
}
