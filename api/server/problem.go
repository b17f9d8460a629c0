package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"cardkms/api"
	"cardkms/kms/fault"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"
)

// Problem is an api.Problem as huma writes it.
type Problem struct{ api.Problem }

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of a refusal.
func (p *Problem) ContentType(string) string { return api.ProblemType }

// GetHeaders says when to come back, where that helps.
func (p *Problem) GetHeaders() http.Header {
	if p.Code.Temporary() {
		return http.Header{"Retry-After": {"1"}}
	}
	return nil
}

// problem makes the one refusal of an error and logs what the caller may not
// see: the cause, and every error that is nobody's to act on.
func (s *server) problem(ctx context.Context, err error) *Problem {
	q := about(ctx)
	var p *Problem
	if !errors.As(err, &p) {
		detail := ""
		var f *fault.Error
		if errors.As(err, &f) && f.Code != fault.Internal {
			detail = f.Detail
		}
		p = &Problem{*api.NewProblem(api.Code(fault.CodeOf(err)), detail, q.id)}
		s.logCause(ctx, q, p.Code, f, err)
	}
	q.code = p.Code
	return p
}

func (s *server) logCause(ctx context.Context, q *request, c api.Code, f *fault.Error, err error) {
	level := slog.LevelWarn
	switch {
	case errors.Is(err, context.Canceled):
		level = slog.LevelInfo // the client went away
	case c == api.Internal:
		level = slog.LevelError
	case f == nil || f.Err == nil:
		return
	}
	s.logger.LogAttrs(ctx, level, "operation failed", slog.String("request", q.id), slog.String("code", string(c)), slog.String("error", err.Error()))
}

// refuse answers a request outside huma.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := s.problem(r.Context(), err)
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	_ = json.MarshalWrite(w, p) // the client may be gone; the access log has the status
}

func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	s.refuse(w, r, fault.New(fault.NotFound, "there is no such path"))
}

// methodNotAllowed names the methods that a path has, [HTTP] RFC 9110, Section
// 15.5.6.
func (s *server) methodNotAllowed(routes chi.Routes) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if routes.Match(chi.NewRouteContext(), m, r.URL.Path) {
				w.Header().Add("Allow", m)
			}
		}
		s.refuse(w, r, httpProblem(r.Context(), http.StatusMethodNotAllowed, nil))
	}
}

// errorsMax bounds how many malformed parts one refusal lists.
const errorsMax = 16

// statuses are the refusals that HTTP or huma knows and the code list does not.
var statuses = map[int]struct {
	code   api.Code
	detail string
}{
	http.StatusBadRequest:            {api.InvalidInput, "the request does not follow the OpenAPI document"},
	http.StatusUnprocessableEntity:   {api.InvalidInput, "the request does not follow the OpenAPI document"},
	http.StatusMethodNotAllowed:      {api.InvalidInput, "the path does not have this method"},
	http.StatusNotAcceptable:         {api.InvalidInput, "answers are application/json"},
	http.StatusRequestTimeout:        {api.InvalidInput, "the body did not arrive in time"},
	http.StatusUnsupportedMediaType:  {api.InvalidInput, "the body has another media type or encoding than the OpenAPI document says"},
	http.StatusRequestEntityTooLarge: {api.TooLarge, "the body is larger than the limit"},
}

// httpProblem makes the refusal of a request that reached no operation. 405, 406,
// 408 and 415 keep their status.
func httpProblem(ctx context.Context, status int, errs []error) *Problem {
	is, ok := statuses[status]
	if !ok {
		is.code = api.Internal
	}
	q := about(ctx)
	q.code = is.code
	p := &Problem{*api.NewProblem(is.code, is.detail, q.id)}
	if ok && is.code == api.InvalidInput && status != http.StatusUnprocessableEntity {
		p.Status = status
	}
	for _, err := range errs[:min(len(errs), errorsMax)] {
		p.Errors = append(p.Errors, fieldError(err))
	}
	return p
}

// fieldError takes place and expectation from huma's detail and leaves the value.
func fieldError(err error) api.FieldError {
	var d *huma.ErrorDetail
	if !errors.As(err, &d) {
		return api.FieldError{Pointer: "/body", Detail: "not as expected"}
	}
	place, what := d.Location, d.Message
	if i := strings.LastIndex(what, bodySeparator); place == "body" && i >= 0 {
		return api.FieldError{Pointer: "/body" + printable(what[:i]), Detail: what[i+len(bodySeparator):]}
	}
	place = strings.NewReplacer("~", "~0", "/", "~1", ".", "/", "[", "/", "]", "").Replace(place)
	return api.FieldError{Pointer: "/" + printable(place), Detail: what}
}

// printable keeps what a client sent as a member's name from filling a terminal
// or a log.
func printable(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7E {
			return '?'
		}
		return r
	}, s)
	return clean[:min(len(clean), 128)]
}
