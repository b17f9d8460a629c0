package server

import (
	"context"
	"net/http"
	"testing"

	"cardkms/api"
)

// TestServed: what the observer learns of a request are words of closed lists; a path, a
// method or a certificate that somebody invented is not among them.
func TestServed(t *testing.T) {
	var got []Served
	w := newWorld(t, func(c *Config) { c.Observer = func(_ context.Context, s Served) { got = append(got, s) } })
	for _, a := range []ask{
		{as: uriAuditor, method: http.MethodGet, path: "/v1/issuers/acme/cards/" + "00010203040506070809"},
		{as: "spiffe://test.example/role/auditor/invented", method: http.MethodGet, path: "/v1/audit/checkpoint"},
		{as: uriAuditor, method: "INVENTED", path: "/v1/audit/checkpoint"},
		{as: uriAuditor, method: http.MethodGet, path: "/invented"},
	} {
		w.do(a)
	}
	want := []Served{
		{Method: http.MethodGet, Route: "/v1/issuers/{issuer}/cards/{kdd}", Status: http.StatusNotFound, Code: api.NotFound, Client: uriAuditor},
		{Method: http.MethodGet, Route: "/v1/audit/checkpoint", Status: http.StatusUnauthorized, Code: api.Unauthenticated},
		{Method: "other", Status: http.StatusMethodNotAllowed, Code: api.InvalidInput},
		{Method: http.MethodGet, Status: http.StatusNotFound, Code: api.NotFound},
	}
	for i := range got {
		got[i].Took = 0
	}
	if len(got) != len(want) {
		t.Fatalf("%d requests were observed", len(got))
	}
	for i, g := range got {
		if g != want[i] {
			t.Errorf("request %d: %+v, want %+v", i, g, want[i])
		}
	}
}
