package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"slices"
	"time"

	"cardkms/api"
	"cardkms/kms"

	"github.com/go-chi/chi/v5"
)

// request is what the layers of one request tell each other. It belongs to the
// goroutine that serves the request.
type request struct {
	id     string
	trace  string // trace id of the traceparent header; empty for none
	caller kms.Caller
	origin string   // the caller's IP address; empty where there is none
	code   api.Code // of the refusal; empty for success
}

type requestKey struct{}

// about returns what is known of the request of a context.
func about(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{}
}

// safeID is what the audit log takes as the id of a request.
var safeID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// traceparent is version 00 of [W3C Trace Context], Section 3.2.
var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$`)

// newRequest takes the origin from the connection: a header that names another
// one is anybody's word.
func newRequest(r *http.Request) *request {
	out := &request{id: r.Header.Get(api.HeaderRequestID)}
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		out.origin = a.Addr().Unmap().WithZone("").String()
	}
	if !safeID.MatchString(out.id) {
		out.id = rand.Text()
	}
	if m := traceparent.FindStringSubmatch(r.Header.Get("traceparent")); m != nil {
		out.trace = m[1]
	}
	return out
}

// observe gives each request its id, turns a panic into a refusal, and logs what
// happened: never a body, never a path with its values.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		q := newRequest(r)
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, q))
		w.Header().Set(api.HeaderRequestID, q.id)
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			broken := s.recovered(sw, r, recover())
			s.access(r, q, sw.status, time.Since(start))
			if broken {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(sw, r)
	})
}

// recovered answers for a handler that panicked. It reports whether the answer
// had begun, so that the connection must break for the client to notice.
func (s *server) recovered(w *statusWriter, r *http.Request, p any) bool {
	if p == nil {
		return false
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return true
	}
	s.logger.LogAttrs(r.Context(), slog.LevelError, "handler panicked",
		slog.String("request", about(r.Context()).id), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
	if w.status != 0 {
		return true
	}
	s.refuse(w, r, errPanic)
	return false
}

var errPanic = errors.New("server: the handler panicked")

// Served is what a metric may say of a request: words of closed lists, and the client
// only if the configuration has it.
type Served struct {
	Method string // "other" for one that no route has
	Route  string // the pattern, without its values; empty for a path that does not exist
	Status int
	Code   api.Code // of the refusal; empty for success
	Client string   // its URI; empty for one that is not known
	Took   time.Duration
}

func (s *server) access(r *http.Request, q *request, status int, took time.Duration) {
	if status == 0 {
		status = http.StatusOK
	}
	if s.served != nil {
		s.served(r.Context(), Served{Method: knownMethod(r.Method), Route: chi.RouteContext(r.Context()).RoutePattern(), Status: status, Code: q.code, Client: q.caller.ID, Took: took})
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("route", chi.RouteContext(r.Context()).RoutePattern()),
		slog.Int("status", status), slog.Duration("duration", took),
		slog.String("caller", q.caller.ID), slog.String("request", q.id),
	}
	if q.trace != "" {
		attrs = append(attrs, slog.String("trace", q.trace))
	}
	if q.code != "" {
		attrs = append(attrs, slog.String("code", string(q.code)))
	}
	s.logger.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// methods are those that routes have.
var methods = []string{http.MethodDelete, http.MethodGet, http.MethodPost, http.MethodPut}

func knownMethod(m string) string {
	if slices.Contains(methods, m) {
		return m
	}
	return "other"
}

// statusWriter remembers the status. Unwrap lets http.ResponseController reach
// the deadlines of the connection.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// secure sets the headers that keep a browser from doing anything with an answer
// of this API.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Strict-Transport-Security", "max-age=63072000")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
