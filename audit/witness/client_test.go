package witness

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"golang.org/x/mod/sumdb/note"
)

// TestClient has what a witness, or something in its place, may answer.
func TestClient(t *testing.T) {
	h := newHistory(t, origin, 5, 99)
	signer, err := audit.NewCosigner(name, witnessKey, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	other, err := audit.NewCosigner(name, logKey, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	line := func(size int64, s note.Signer) string {
		text, _, _ := strings.Cut(string(h.checkpoint(size)), "\n\n")
		msg, err := note.Sign(&note.Note{Text: text + "\n"}, s)
		if err != nil {
			t.Fatal(err)
		}
		_, lines, _ := strings.Cut(string(msg), "\n\n")
		return lines
	}
	good := line(5, signer)
	for _, tt := range []struct {
		name   string
		status int
		media  string
		body   string
		want   error
	}{
		{"good", 200, "", good, nil},
		{"good after unknown", 200, "", line(5, other) + good, nil},
		{"empty", 200, "", "", ErrAnswer},
		{"of another size", 200, "", line(4, signer), ErrAnswer},
		{"by another key", 200, "", line(5, other), ErrAnswer},
		{"no line feed", 200, "", strings.TrimSpace(good), ErrAnswer},
		{"endless", 200, "", strings.Repeat("x", 1<<20), ErrAnswer},
		{"text before", 200, "", "hello\n\n" + good, ErrAnswer},
		{"409 without type", 409, "", "3\n", ErrAnswer},
		{"409 without size", 409, sizeType, "x\n", ErrAnswer},
		{"409 negative", 409, sizeType, "-1\n", ErrAnswer},
		{"422", 422, "", "", ErrInconsistent},
		{"403", 403, "", "", ErrNotTrusted},
		{"404", 404, "", "", ErrUnknownLog},
		{"500", 500, "", "", ErrAnswer},
		{"204", 204, "", "", ErrAnswer},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", tt.media)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		c := &Client{URL: web.URL + "/", Verifier: newVerifier(t, witnessVkey(t))}
		msg, err := h.ask(c, 0, 5)
		if tt.want == nil && (err != nil || string(msg) != string(h.checkpoint(5))+good) || tt.want != nil && (!errors.Is(err, tt.want) || msg != nil) {
			t.Errorf("%s: %q, %v", tt.name, msg, err)
		}
		web.Close()
	}
}

func TestClientConflict(t *testing.T) {
	h := newHistory(t, origin, 20, 99)
	_, c := serve(t, t.TempDir(), io.Discard)
	if _, err := h.ask(c, 0, 10); err != nil {
		t.Fatal(err)
	}
	var size *SizeError
	if _, err := h.ask(c, 0, 20); !errors.As(err, &size) || size.Size != 10 {
		t.Fatalf("%v", err)
	}
	if _, err := h.ask(c, size.Size, 20); err != nil {
		t.Errorf("after the size was told: %v", err)
	}
}

// TestClientWaitsNoLonger: a witness that does not answer costs its deadline.
func TestClientWaitsNoLonger(t *testing.T) {
	stop := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer web.Close()
	defer close(stop)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := &Client{URL: web.URL, Verifier: newVerifier(t, witnessVkey(t))}
	if _, err := c.Cosign(ctx, 0, nil, newHistory(t, origin, 1, 9).checkpoint(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
