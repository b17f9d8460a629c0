package main

import (
	"context"
	"crypto/ecdh"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"cardkms/api/server"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/tokens"
)

// traces makes a span of each request, with one below it for each of its first operations
// in a token and for each wait for the log, and sends them by OTLP over HTTP, as the
// OTEL_EXPORTER_OTLP_* variables say. Without an endpoint there it does nothing.
//
// The spans are made here and not by a ready-made handler: those put the path into the
// attributes, and a path names cards. A span has the words of server.Served, names of
// operations, and no others.
type traces struct {
	provider *sdktrace.TracerProvider // nil: nobody wants any
	tracer   trace.Tracer
}

const tracesTimeout = 5 * time.Second // to send what is left at the end

func newTraces(ctx context.Context, logger *slog.Logger) (*traces, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return &traces{}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("sending traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces are lost", "error", err) }))
	what := resource.NewSchemaless(attribute.String("service.name", "cardkmsd"), attribute.String("service.version", server.Version))
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(what))
	return &traces{provider: p, tracer: p.Tracer("cardkms")}, nil
}

// around makes a span of each request that a handler serves, below the one that the
// caller names in traceparent.
func (t *traces) around(next http.Handler) http.Handler {
	if t.provider == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		ctx = context.WithValue(ctx, inside{}, &insides{tracer: t.tracer})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// served names the span of a request, whose route is known at its end only.
func (t *traces) served(ctx context.Context, s server.Served) {
	if t.provider == nil {
		return
	}
	span := trace.SpanFromContext(ctx)
	span.SetName(s.Method + " " + s.Route)
	span.SetAttributes(attribute.String("http.request.method", s.Method), attribute.String("http.route", s.Route),
		attribute.Int("http.response.status_code", s.Status))
	if in, ok := ctx.Value(inside{}).(*insides); ok {
		span.SetAttributes(attribute.Int64("cardkms.token.operations", in.token.Load()))
	}
	if s.Code != "" {
		span.SetAttributes(attribute.String("error.type", string(s.Code)))
	}
	if s.Status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// insides is what a traced request knows of the spans below its own. It is in the context
// under the key inside{}.
type insides struct {
	tracer       trace.Tracer
	spans, token atomic.Int64
}

type inside struct{}

// spansMax bounds the spans below one request: a package has thousands of operations.
const spansMax = 32

// begin starts a span below a request's and returns how it ends.
func (in *insides) begin(ctx context.Context, name string) (end func(error)) {
	if in.spans.Add(1) > spansMax {
		return func(error) {}
	}
	_, span := in.tracer.Start(ctx, name)
	return func(err error) {
		if err != nil {
			span.SetAttributes(attribute.String("error.type", string(fault.CodeOf(err))))
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// tracedLog begins the span of an operation that waits for its entry in the log.
func tracedLog(ctx context.Context) (end func(error)) {
	if in, ok := ctx.Value(inside{}).(*insides); ok {
		return in.begin(ctx, "log")
	}
	return func(error) {}
}

// tracedTokens makes spans of what traced requests have the tokens compute.
type tracedTokens struct{ *tokens.Set[*hsm.Token] }

var (
	_ kms.Token        = tracedTokens{}
	_ derive.TDEAToken = tracedTokens{}
	_ derive.Agreer    = tracedTokens{}
)

func traced[T any](ctx context.Context, operation string, f func() (T, error)) (T, error) {
	in, ok := ctx.Value(inside{}).(*insides)
	if !ok {
		return f()
	}
	in.token.Add(1)
	end := in.begin(ctx, "token "+operation)
	out, err := f()
	end(err)
	return out, err
}

// MAC implements derive.Token.
func (t tracedTokens) MAC(ctx context.Context, k *derive.Key, message []byte) ([]byte, error) {
	return traced(ctx, "mac", func() ([]byte, error) { return t.Set.MAC(ctx, k, message) })
}

// Encrypt implements derive.Token.
func (t tracedTokens) Encrypt(ctx context.Context, k *derive.Key, data []byte) ([]byte, error) {
	return traced(ctx, "encrypt", func() ([]byte, error) { return t.Set.Encrypt(ctx, k, data) })
}

// Decrypt implements derive.Token.
func (t tracedTokens) Decrypt(ctx context.Context, k *derive.Key, iv, data []byte) ([]byte, error) {
	return traced(ctx, "decrypt", func() ([]byte, error) { return t.Set.Decrypt(ctx, k, iv, data) })
}

// RetailMAC implements derive.TDEAToken.
func (t tracedTokens) RetailMAC(ctx context.Context, k derive.RetailKey, message []byte) ([]byte, error) {
	return traced(ctx, "retail-mac", func() ([]byte, error) { return t.Set.RetailMAC(ctx, k, message) })
}

// Matches implements derive.Token.
func (t tracedTokens) Matches(ctx context.Context, base *derive.Key, step derive.Step, value []byte) (bool, error) {
	return traced(ctx, "matches", func() (bool, error) { return t.Set.Matches(ctx, base, step, value) })
}

// Challenge is that of the set.
func (t tracedTokens) Challenge(ctx context.Context, base *derive.Key, step derive.Step) ([]byte, error) {
	return traced(ctx, "challenge", func() ([]byte, error) { return t.Set.Challenge(ctx, base, step) })
}

// pair is what Ephemeral makes.
type pair struct {
	private *derive.Key
	public  *ecdh.PublicKey
}

// Ephemeral implements derive.Agreer.
func (t tracedTokens) Ephemeral(ctx context.Context, token string) (*derive.Key, *ecdh.PublicKey, error) {
	p, err := traced(ctx, "ephemeral", func() (p pair, err error) {
		p.private, p.public, err = t.Set.Ephemeral(ctx, token)
		return p, err
	})
	return p.private, p.public, err
}

// Agree implements derive.Agreer.
func (t tracedTokens) Agree(ctx context.Context, ours [2]*derive.Key, peers [2]*ecdh.PublicKey) (*derive.Key, error) {
	return traced(ctx, "agree", func() (*derive.Key, error) { return t.Set.Agree(ctx, ours, peers) })
}

// Wrap implements derive.Wrapper.
func (t tracedTokens) Wrap(ctx context.Context, dek, k *derive.Key) ([]byte, error) {
	return traced(ctx, "wrap", func() ([]byte, error) { return t.Set.Wrap(ctx, dek, k) })
}

// KCV implements derive.Wrapper.
func (t tracedTokens) KCV(ctx context.Context, k *derive.Key) (key.KCV, error) {
	return traced(ctx, "kcv", func() (key.KCV, error) { return t.Set.KCV(ctx, k) })
}

// Random implements kms.Token.
func (t tracedTokens) Random(ctx context.Context, n int) ([]byte, error) {
	return traced(ctx, "random", func() ([]byte, error) { return t.Set.Random(ctx, n) })
}

// stop sends what is left.
func (t *traces) stop() {
	if t.provider == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tracesTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what is lost is said by the error handler
}
