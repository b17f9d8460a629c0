package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"cardkms/api"
)

// TestPeopleAreNoPrograms: whoever a token is of, an update server is let in by
// certificate only, and a certificate counts for nothing on the listener for people.
func TestPeopleAreNoPrograms(t *testing.T) {
	w := newWorld(t)
	uri := ""
	h := (&Server{Handler: w.handler, server: w.server}).People(func(context.Context, string) (string, error) { return uri, nil })
	ask := func(token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, acme+"/images", nil)
		r.TLS = certificate(uriUpdate)
		if token != "" {
			r.Header.Set("Authorization", "bearer "+token)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec
	}
	refused(t, ask(""), api.Unauthenticated)
	for _, uri = range []string{uriUpdate, "spiffe://test.example/role/auditor/unknown", ""} {
		refused(t, ask("t"), api.Unauthenticated)
	}
	for _, uri = range []string{uriOfficer, uriAuditor} {
		if rec := ask("t"); rec.Code != http.StatusOK {
			t.Errorf("%s: %d %s", uri, rec.Code, rec.Body)
		}
	}
}
