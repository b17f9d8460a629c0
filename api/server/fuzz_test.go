package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"cardkms/api"

	"github.com/go-json-experiment/json"
)

// FuzzOpenChannel sends bodies: each is answered by a channel or by a problem
// that repeats nothing of it, and what is accepted is what its JSON says.
func FuzzOpenChannel(f *testing.F) {
	for _, s := range []string{`{"key":"isd"}`, `{"key":"isd","kvn":"30","profile":"default"}`, `null`, `{"key":"isd","key":"x"}`, `{"KEY":"isd"}`, "\xFF", `{"key":"\u0000"}`} {
		f.Add([]byte(s))
	}
	w := newWorld(f, func(c *Config) { c.Limits.RequestsPerSecond = 1 << 30 })
	f.Fuzz(func(t *testing.T, body []byte) {
		w.t = t
		w.log.Reset()
		rec := w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: body})
		if rec.Code == http.StatusCreated {
			var in api.OpenChannel
			if err := json.Unmarshal(body, &in, json.RejectUnknownMembers(true)); err != nil || in.Key != "isd" {
				t.Fatalf("%q opened a channel: %v", body, err)
			}
			var out api.OpenedChannel
			must(t, json.Unmarshal(rec.Body.Bytes(), &out))
			w.do(ask{as: uriUpdate, method: http.MethodDelete, path: acme + "/channels/" + out.ID, key: newKey()})
			return
		}
		var p api.Problem
		if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil || p.Status != rec.Code || rec.Code == http.StatusInternalServerError {
			t.Fatalf("%q: %d %s", body, rec.Code, rec.Body)
		}
	})
}

// FuzzRoleOf checks that a URI names a role only in its last pair of segments
// named so, and nothing that the audit log could not hold.
func FuzzRoleOf(f *testing.F) {
	for _, s := range []string{uriUpdate, uriAuditor, "spiffe://a/role/auditor/role/operator", "spiffe://a//role/auditor", "spiffe://a/role/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		role, err := roleOf(uri)
		if err != nil {
			return
		}
		if strings.Count(uri+"/", "/role/"+string(role)+"/") != 1 || strings.ContainsAny(uri, "\n %?#@\\") || !strings.HasPrefix(uri, "spiffe://") {
			t.Fatalf("%q is %s", uri, role)
		}
	})
}

// FuzzTokens checks that page tokens are one to one with cursors.
func FuzzTokens(f *testing.F) {
	f.Add("cos-1-1")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := cursor(s)
		if err == nil && !bytes.Equal([]byte(token(c)), []byte(s)) {
			t.Fatalf("%q and %q are one cursor", s, token(c))
		}
	})
}
