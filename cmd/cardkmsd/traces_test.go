package main

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP receiver over HTTP that keeps what it gets.
type receiver struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	raw   string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	b, err := io.ReadAll(q.Body)
	var in collector.ExportTraceServiceRequest
	if err != nil || q.URL.Path != "/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(b, &in) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw += string(b)
	for _, resource := range in.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// TestTraces: each request is a span below the caller's, named by its route and without
// any value of the request, with spans below it of what it waited for; without an endpoint
// nothing is sent.
func TestTraces(t *testing.T) {
	got := &receiver{}
	web := httptest.NewServer(got)
	defer web.Close()
	s := newSite(t)
	s.stop()
	s.env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + web.URL}
	s.serve()
	r := s.recorder()
	r.authenticate(s.card(0xABCDEF, 1024))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/issuers/demo/cards/000000000000ABCDEF01", nil)
	s.must("", err)
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	req.Header.Set("traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
	resp, err := r.http.Do(req)
	s.must("", err)
	_ = resp.Body.Close()
	s.stop() // which sends what is left

	got.mu.Lock()
	defer got.mu.Unlock()
	var names []string
	requests, below := map[string]string{}, map[string][]string{}
	for _, span := range got.spans {
		names = append(names, span.GetName())
		if name := span.GetName(); strings.Contains(name, "/") {
			requests[string(span.GetSpanId())] = name
		} else {
			below[string(span.GetParentSpanId())] = append(below[string(span.GetParentSpanId())], name)
		}
		for _, a := range span.GetAttributes() {
			if !slices.Contains([]string{"http.request.method", "http.route", "http.response.status_code", "error.type", "cardkms.token.operations"}, a.GetKey()) {
				t.Errorf("%s has the attribute %s", span.GetName(), a.GetKey())
			}
		}
		if span.GetName() == "GET /v1/issuers/{issuer}/cards/{kdd}" && hex.EncodeToString(span.GetTraceId()) != traceID {
			t.Errorf("the span is in the trace %x", span.GetTraceId())
		}
	}
	for _, want := range []string{"POST /v1/issuers/{issuer}/channels", "POST /v1/issuers/{issuer}/channels/{channel}:authenticate", "GET /v1/issuers/{issuer}/cards/{kdd}"} {
		if !slices.Contains(names, want) {
			t.Errorf("no span %s among %q", want, names)
		}
	}
	for id, spans := range below {
		switch name := requests[id]; {
		case name == "":
			t.Errorf("%q are below no request", spans)
		case strings.HasSuffix(name, ":authenticate") && (!slices.Contains(spans, "token mac") || !slices.Contains(spans, "log")):
			t.Errorf("%s waits for %q", name, spans)
		case len(spans) > spansMax:
			t.Errorf("%s has %d spans below it", name, len(spans))
		}
	}
	if len(below) < 2 {
		t.Errorf("spans below %d requests", len(below))
	}
	if strings.Contains(got.raw, "ABCDEF") || strings.Contains(got.raw, "spiffe:") || strings.Contains(got.raw, "127.0.0.1") {
		t.Error("a span holds a card, a client or an address")
	}

	spans := len(got.spans)
	s.env = nil
	got.mu.Unlock()
	s.serve()
	s.recorder().authenticate(s.card(2, 1024))
	s.stop()
	got.mu.Lock()
	if len(got.spans) != spans {
		t.Error("spans are sent although nobody asked for them")
	}
}
