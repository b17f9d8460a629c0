package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestGate: close waits for the handlers that run, and a later request runs none.
func TestGate(t *testing.T) {
	var g gate
	running, end, ran := make(chan bool), make(chan bool), 0
	h := g.around(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ran++
		running <- true
		<-end
		w.WriteHeader(http.StatusNoContent)
	}))
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/keys", http.NoBody))
		return w
	}
	first, closed := make(chan *httptest.ResponseRecorder, 1), make(chan bool)
	go func() { first <- get() }()
	<-running
	go func() { g.close(); close(closed) }()
	for g.enter() { // until close has begun
		g.busy.Done()
	}
	select {
	case <-closed:
		t.Fatal("the gate closed over a handler that runs")
	default:
	}
	if w := get(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("after it is shut: %d %s", w.Code, w.Body)
	}
	close(end)
	if w := <-first; w.Code != http.StatusNoContent {
		t.Errorf("the handler that ran answered %d", w.Code)
	}
	<-closed
	if ran != 1 {
		t.Errorf("%d handlers ran", ran)
	}
}
