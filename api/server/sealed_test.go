package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms/fault"
)

// TestSealed: a service that has not begun lives, is not ready, and does nothing.
func TestSealed(t *testing.T) {
	why := fault.New(fault.VaultUnavailable, "it waits")
	h := Sealed(func() *fault.Error { return why })
	ask := func(method, path string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(method, path, nil))
		return rec
	}
	if rec := ask(http.MethodGet, "/healthz"); rec.Code != http.StatusOK || rec.Body.String() != `{"status":"ok"}` {
		t.Errorf("healthz: %d %s", rec.Code, rec.Body)
	}
	for _, at := range []string{"GET /readyz", "POST /v1/issuers/acme/channels", "GET /v1/keys", "POST /healthz"} {
		method, path, _ := strings.Cut(at, " ")
		if p := refused(t, ask(method, path), api.VaultUnavailable); p.Detail != "it waits" {
			t.Errorf("%s: %v", at, p)
		}
	}
	why = fault.New(fault.PINRefused, "")
	refused(t, ask(http.MethodGet, "/readyz"), api.PINRefused)
}
