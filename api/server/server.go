// Package server is the HTTP front door of the service: it finds out who calls,
// reads the request strictly, calls one method of kms.Service, and writes the
// answer. It knows no rules; what a caller may do is decided in package kms.
//
// It follows the types of package api, [Problem] RFC 9457 for every refusal, and
// [OpenAPI] OpenAPI 3.1, whose document is generated from the registration of the
// operations. Requests pass, from the outside inwards:
//
//	request id, access log, panics → security headers → client identity → rate limit
//	→ media type, size, strict JSON, schema → Idempotency-Key → kms.Service
//
// /healthz and /readyz need no identity of a known client; the TLS listener still
// wants a certificate of the client CA.
//
// It promises: no value of a request appears in an answer or a log line; an error
// that is not a *fault.Error is logged under the request's id and shown as
// "internal"; a change that was answered is answered the same again under its
// Idempotency-Key for ten minutes, in this process.
//
// The caller must serve the handler with TLSConfig, or with a configuration that
// is no weaker, because the identity is taken from the verified client
// certificate.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"cardkms/kms"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
)

// Version is the version of the API where Config names none.
const Version = "1.0.0"

// Config is what a server is made of. Service and Clients are required; a limit
// of zero is the default.
type Config struct {
	Service *kms.Service
	Admission
	Logger  *slog.Logger
	Version string // of the API, in the OpenAPI document
	Limits  Limits
	// Observer is told of each request when it was answered; it must not wait. nil for
	// nobody.
	Observer func(context.Context, Served)
	// Degraded names what the service has to do without at the moment; /readyz says so and
	// stays ready. Nil for nothing.
	Degraded func() []string
}

// Limits bound what one request and one client may use.
type Limits struct {
	JSONBytesMax      int64         // of one JSON body; 1 MiB
	ImageBytesMax     int64         // of one image; 64 MiB
	RequestsPerSecond int           // of one client that has no limit of its own; 2000
	OperationTimeout  time.Duration // of one operation that is not a stream; 30 s
	StreamIdle        time.Duration // between two reads or writes of a stream; 30 s
	ReplayFor         time.Duration // how long an answer is kept for its Idempotency-Key; 10 min
	ReplaysMax        int           // answers kept for one client; 10000
}

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	wait := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.JSONBytesMax, 1<<20)
	set(&l.ImageBytesMax, 64<<20)
	wait(&l.OperationTimeout, 30*time.Second)
	wait(&l.StreamIdle, 30*time.Second)
	wait(&l.ReplayFor, 10*time.Minute)
	if l.RequestsPerSecond == 0 {
		l.RequestsPerSecond = 2000
	}
	if l.ReplaysMax == 0 {
		l.ReplaysMax = 10_000
	}
	return l
}

func (l Limits) check() error {
	if l.JSONBytesMax < 0 || l.ImageBytesMax < 0 || l.RequestsPerSecond < 0 || l.OperationTimeout < 0 ||
		l.StreamIdle < 0 || l.ReplayFor < 0 || l.ReplaysMax < 0 {
		return errors.New("server: a limit is negative")
	}
	return nil
}

// server is what the handlers share.
type server struct {
	svc     *kms.Service
	logger  *slog.Logger
	limits  Limits
	served  func(context.Context, Served)
	replays replays
	api     huma.API
	routes  []route // in the order of registration

	admitted atomic.Pointer[admitted]
	degraded func() []string
}

// Server is the handler of the whole API.
type Server struct {
	http.Handler
	server *server
}

// New checks a configuration and returns the server.
func New(cfg Config) (*Server, error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	return &Server{Handler: s.handler(cfg.Version), server: s}, nil
}

func newServer(cfg Config) (*server, error) {
	if cfg.Service == nil {
		return nil, errors.New("server: the configuration lacks the service")
	}
	if err := cfg.Limits.check(); err != nil {
		return nil, err
	}
	letIn, err := cfg.check()
	if err != nil {
		return nil, err
	}
	s := &server{svc: cfg.Service, logger: cfg.Logger, limits: cfg.Limits.withDefaults(), served: cfg.Observer, degraded: cfg.Degraded}
	if s.degraded == nil {
		s.degraded = func() []string { return nil }
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.admitted.Store(letIn)
	s.replays.init(s.limits.ReplaysMax, s.limits.ReplayFor)
	return s, nil
}

// handler builds the routes.
func (s *server) handler(version string) http.Handler {
	root := chi.NewMux()
	root.Use(s.observe, secure)
	root.NotFound(s.notFound)
	root.MethodNotAllowed(s.methodNotAllowed(root))
	doc := newDocument(version)
	s.registerHealth(newAPI(root, doc))
	root.Group(func(r chi.Router) {
		r.Use(s.identify, s.limitRate())
		s.api = newAPI(r, doc)
		s.registerAll()
		r.Get("/v1/openapi.yaml", serveDocument(doc))
	})
	return root
}

func (s *server) registerAll() {
	s.registerChannels()
	s.registerImages()
	s.registerPackages()
	s.registerCards()
	s.registerRotation()
	s.registerProfiles()
	s.registerEMV()
	s.registerScripts()
	s.registerOTA()
	s.registerAudit()
	s.registerApprovals()
}
