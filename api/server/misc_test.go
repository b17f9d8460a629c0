package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"
)

func panics(context.Context, kms.Request, *openChannelInput) (*answer[api.OpenedChannel], error) {
	panic("kms: impossible")
}

// TestPanic checks that a panic is a refusal with an id that leads to the log.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	s := &server{logger: slog.New(slog.NewJSONHandler(&log, nil))}
	mux := chi.NewMux()
	mux.Use(s.observe)
	mux.Get("/", func(http.ResponseWriter, *http.Request) { panic("kms: impossible") })
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	p := refused(t, rec, api.Internal)
	if strings.Contains(rec.Body.String(), "impossible") || !strings.Contains(log.String(), "kms: impossible") || !strings.Contains(log.String(), p.RequestID) {
		t.Errorf("answer %s, log %s", rec.Body, &log)
	}
}

// TestInternalErrors checks what becomes of each kind of error.
func TestInternalErrors(t *testing.T) {
	var log bytes.Buffer
	s := &server{logger: slog.New(slog.NewJSONHandler(&log, nil))}
	ctx := context.WithValue(t.Context(), requestKey{}, &request{id: "r-1"})
	cause := errors.New("disk /dev/sda is on fire")
	for _, c := range []struct {
		err    error
		code   api.Code
		detail string
		logged bool
		retry  string
	}{
		{cause, api.Internal, "", true, ""},
		{fmt.Errorf("wrapping: %w", fault.New(fault.Conflict, "busy")), api.Conflict, "busy", false, ""},
		{fault.Because(fault.TokenUnavailable, "the token is lost", cause), api.TokenUnavailable, "the token is lost", true, "1"},
		{fault.Because(fault.Internal, "a detail", cause), api.Internal, "", true, ""},
		{fault.New(fault.AuditUnavailable, ""), api.AuditUnavailable, "", false, "1"},
		{fault.New(fault.RateLimited, ""), api.RateLimited, "", false, "1"},
		{fault.Proof(), api.ProofFailed, "the proof does not verify", false, ""},
		{fault.New("no_such_code", ""), api.Internal, "", false, ""},
	} {
		log.Reset()
		p := s.problem(ctx, c.err)
		if p.Code != c.code || p.Detail != c.detail || p.RequestID != "r-1" || p.GetHeaders().Get("Retry-After") != c.retry {
			t.Errorf("%v: %+v", c.err, p)
		}
		if logged := strings.Contains(log.String(), "on fire") && strings.Contains(log.String(), "r-1"); logged != c.logged {
			t.Errorf("%v: log %s", c.err, &log)
		}
	}
}

// TestRateLimit checks that one client's limit is its own.
func TestRateLimit(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.RequestsPerSecond = 5 })
	limited := 0
	for i := range 12 {
		path := acme + []string{"/keys", "/images", "/cards"}[i%3] // one limit for all paths
		rec := w.do(ask{as: uriOfficer, method: http.MethodGet, path: path})
		if rec.Code == http.StatusOK {
			continue
		}
		refused(t, rec, api.RateLimited)
		if rec.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		limited++
	}
	if limited < 1 {
		t.Error("12 requests passed a limit of 5")
	}
	if rec := w.do(ask{as: uriAuditor, method: http.MethodGet, path: acme + "/keys"}); rec.Code != http.StatusOK {
		t.Errorf("another client: %d", rec.Code)
	}
}

// TestHeaders checks request ids, traces, the access log and the headers for
// browsers.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	rec := w.do(ask{as: uriAuditor, method: http.MethodGet, path: acme + "/cards/00010203040506070809", header: map[string]string{
		"X-Request-Id": "my-request.1", "Traceparent": "00-" + trace + "-00f067aa0ba902b7-01",
	}})
	refused(t, rec, api.NotFound)
	if rec.Header().Get("X-Request-Id") != "my-request.1" || rec.Header().Get("Cache-Control") != "no-store" || rec.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", rec.Header())
	}
	var line map[string]any
	must(t, json.Unmarshal(w.log.Bytes(), &line))
	delete(line, "time")
	delete(line, "duration")
	got, _ := json.Marshal(line, json.Deterministic(true))
	wantLine := `{"caller":"` + uriAuditor + `","code":"not_found","level":"INFO","method":"GET","msg":"request","request":"my-request.1",` +
		`"route":"/v1/issuers/{issuer}/cards/{kdd}","status":404,"trace":"` + trace + `"}`
	if string(got) != wantLine {
		t.Errorf("got  %s\nwant %s", got, wantLine)
	}
	for _, id := range []string{"a b", strings.Repeat("a", 65), "a\nb", "ü"} {
		r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
		r.Header["X-Request-Id"] = []string{id}
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		if got := rec.Header().Get("X-Request-Id"); got == id || !safeID.MatchString(got) {
			t.Errorf("%q became %q", id, got)
		}
	}
}

// TestLists checks pages and entity tags.
func TestLists(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		im, _ := w.image(fmt.Sprintf("cos-%d", i), 100)
		post[api.Image](w, acme+"/images", im)
	}
	var names []string
	for query := "?pageSize=2"; ; {
		page := want[api.ImageList](w, w.do(ask{as: uriAuditor, method: http.MethodGet, path: acme + "/images" + query}))
		for _, im := range page.Images {
			names = append(names, im.Name)
		}
		if page.NextPageToken == "" {
			break
		}
		query = "?pageSize=2&pageToken=" + page.NextPageToken
	}
	if strings.Join(names, " ") != "cos-0 cos-1 cos-2 cos-3 cos-4" {
		t.Errorf("%v", names)
	}
	for _, query := range []string{"?pageSize=0", "?pageSize=1001", "?pageSize=x", "?pageToken=!", "?pageToken=A", "?page=1"} {
		refused(t, w.do(ask{as: uriAuditor, method: http.MethodGet, path: acme + "/images" + query}), api.InvalidInput)
	}
	get := ask{as: uriAuditor, method: http.MethodGet, path: acme + "/images/cos-1"}
	first := w.do(get)
	tag := first.Header().Get("ETag")
	get.header = map[string]string{"If-None-Match": tag}
	if rec := w.do(get); tag == "" || rec.Code != http.StatusNotModified || rec.Body.Len() != 0 || rec.Header().Get("ETag") != tag {
		t.Errorf("%d %q %s", rec.Code, tag, rec.Body)
	}
	get.header["If-None-Match"] = `"other"`
	if rec := w.do(get); rec.Code != http.StatusOK {
		t.Errorf("%d", rec.Code)
	}
	keys := want[api.KeyList](w, w.do(ask{as: uriOfficer, method: http.MethodGet, path: acme + "/keys"}))
	if len(keys.Keys) != 2 || keys.Keys[0].Name != "issuers/acme/keys/isd/versions/1" || keys.Keys[0].KVN != 0x30 || len(keys.Keys[0].KCVs) != 3 {
		t.Errorf("%+v", keys)
	}
}
