package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
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
)

// traces makes one span of each request and sends them by OTLP over HTTP, as the
// OTEL_EXPORTER_OTLP_* variables say. Without an endpoint there it does nothing.
//
// The spans are made here and not by a ready-made handler: those put the path into the
// attributes, and a path names cards. A span has the words of server.Served and no others.
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
	if s.Code != "" {
		span.SetAttributes(attribute.String("error.type", string(s.Code)))
	}
	if s.Status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
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
