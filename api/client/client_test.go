package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/api"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers requests by their order.
func serve(t *testing.T, answers ...http.HandlerFunc) (*Client, *[]string) {
	t.Helper()
	var keys []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		_, _ = io.Copy(io.Discard, r.Body)
		answers[min(len(keys), len(answers))-1](w, r)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := New(Config{BaseURL: srv.URL, Cert: srv.TLS.Certificates[0], RootCAs: pool, ServerName: "example.com", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c, &keys
}

func ok(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"id":"00","initializeUpdate":"8050","expiresAt":"2026-11-24T00:00:00Z","later":1}`)
}

func problem(status int, code, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", retryAfter)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"code":"`+code+`","requestId":"r-1","detail":"why"}`)
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func halfAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, `{"id":`)
	panic(http.ErrAbortHandler)
}

// TestRepeat checks what is sent again: once, under the same key, and only what
// may succeed.
func TestRepeat(t *testing.T) {
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		sent    int
		code    api.Code // empty for success or another error
		fails   bool
	}{
		"good":        {[]http.HandlerFunc{ok}, 1, "", false},
		"hang up":     {[]http.HandlerFunc{hangUp, ok}, 2, "", false},
		"half":        {[]http.HandlerFunc{halfAnswer, ok}, 2, "", false},
		"busy":        {[]http.HandlerFunc{problem(503, "token_unavailable", "1"), ok}, 2, "", false},
		"always busy": {[]http.HandlerFunc{problem(429, "rate_limited", "1")}, 2, api.RateLimited, true},
		"come later":  {[]http.HandlerFunc{problem(503, "token_unavailable", "60"), ok}, 1, api.TokenUnavailable, true},
		"no time":     {[]http.HandlerFunc{problem(503, "token_unavailable", ""), ok}, 1, api.TokenUnavailable, true},
		"refused":     {[]http.HandlerFunc{problem(422, "proof_failed", "1"), ok}, 1, api.ProofFailed, true},
		"not ours":    {[]http.HandlerFunc{http.NotFound}, 1, "", true},
		"redirect":    {[]http.HandlerFunc{http.RedirectHandler("/other", http.StatusFound).ServeHTTP}, 1, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			cl, keys := serve(t, c.answers...)
			out, err := cl.OpenChannel(t.Context(), "acme", api.OpenChannel{Key: "isd"})
			var p *api.Problem
			if c.code != "" && (!errors.As(err, &p) || p.Code != c.code || p.RequestID != "r-1") || (err != nil) != c.fails {
				t.Fatalf("%v", err)
			}
			if !c.fails && !bytes.Equal(out.InitializeUpdate, []byte{0x80, 0x50}) {
				t.Errorf("%+v", out)
			}
			if len(*keys) != c.sent || (*keys)[0] == "" || len(slices.Compact(slices.Clone(*keys))) != 1 {
				t.Errorf("sent under the keys %v", *keys)
			}
		})
	}
}

// TestRefusedAuthentication: a refusal ended the channel, so only a lost answer is asked
// for again.
func TestRefusedAuthentication(t *testing.T) {
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		sent    int
		code    api.Code
	}{
		"the card waits":   {[]http.HandlerFunc{problem(429, "rate_limited", "1"), problem(404, "not_found", "")}, 1, api.RateLimited},
		"the answer broke": {[]http.HandlerFunc{hangUp, problem(422, "proof_failed", "")}, 2, api.ProofFailed},
	} {
		cl, keys := serve(t, c.answers...)
		_, err := cl.Authenticate(t.Context(), "acme", "00", api.Authenticate{})
		var p *api.Problem
		if !errors.As(err, &p) || p.Code != c.code || len(*keys) != c.sent {
			t.Errorf("%s: %v after %d calls", name, err, len(*keys))
		}
	}
}

// TestStreams checks that streams are sent once.
func TestStreams(t *testing.T) {
	c, sent := serve(t, hangUp)
	if _, err := c.UploadImage(t.Context(), "acme", "cos", 3, strings.NewReader("abc")); err == nil {
		t.Error("an upload that broke off succeeded")
	}
	c, got := serve(t, halfAnswer)
	var out bytes.Buffer
	if n, err := c.DownloadChunks(t.Context(), "acme", "00", 1, &out); err == nil || n != int64(out.Len()) {
		t.Errorf("a download that broke off: %d %v", n, err)
	}
	if len(*sent) != 1 || len(*got) != 1 {
		t.Errorf("sent %d and %d times", len(*sent), len(*got))
	}
}

// TestTimeout checks that a call ends with its time.
func TestTimeout(t *testing.T) {
	c, _ := serve(t, problem(503, "token_unavailable", "3"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := c.Ready(ctx); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestConfig(t *testing.T) {
	cert := tls.Certificate{Certificate: [][]byte{{0}}}
	for _, base := range []string{"", "localhost:8443", "http://localhost", "https://", "https://localhost/v1", "https://localhost?x=1"} {
		if _, err := New(Config{BaseURL: base, Cert: cert}); err == nil {
			t.Errorf("%q: accepted", base)
		}
	}
	for name, c := range map[string]Config{
		"no certificate": {BaseURL: "https://localhost"},
		"no file":        {BaseURL: "https://localhost", CertFile: "none.pem", KeyFile: "none.key"},
		"no CA file":     {BaseURL: "https://localhost", Cert: cert, RootCAsFile: "none.pem"},
		"not a CA file":  {BaseURL: "https://localhost", Cert: cert, RootCAsFile: "client.go"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{BaseURL: "https://localhost:8443/", Cert: cert}); err != nil {
		t.Error(err)
	}
}

// TestPaths checks that names cannot change a path.
func TestPaths(t *testing.T) {
	if got := path("issuers", "a/../b?c", "channels", "00", ":wrap"); got != "/v1/issuers/a%2F..%2Fb%3Fc/channels/00:wrap" {
		t.Error(got)
	}
}
