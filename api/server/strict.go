package server

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"cardkms/api"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// huma keeps these as variables of its package. Its defaults match member names
// in any case, let null stand for an array, and put the offending value into the
// error.
func init() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError {
		return httpProblem(context.Background(), status, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		if status == http.StatusInternalServerError && msg == "cannot read request body" {
			status = http.StatusBadRequest // the client went away
		}
		return httpProblem(ctx.Context(), status, errs)
	}
}

// strict reads JSON as [I-JSON] RFC 7493 wants it: valid UTF-8, no name twice,
// one document and nothing after it; and it refuses unknown names and another
// case.
var strict = huma.Format{
	Marshal: func(w io.Writer, v any) error { return json.MarshalWrite(w, v) },
	Unmarshal: func(data []byte, v any) error {
		return explain(json.Unmarshal(data, v, json.RejectUnknownMembers(true)))
	},
}

// bodySeparator stands between place and expectation in a bodyError's text,
// because huma keeps only the text. No expectation contains it.
const bodySeparator = "\n"

// bodyError says where a body is malformed, without any of it.
type bodyError struct{ pointer, expected string }

func (e *bodyError) Error() string { return e.pointer + bodySeparator + e.expected }

// explain keeps of a decoder's error what may be shown.
func explain(err error) error {
	if err == nil {
		return nil
	}
	out := &bodyError{expected: "not JSON"}
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		out.expected = "a member name stands twice in one object"
	case errors.Is(err, json.ErrUnknownName):
		out.expected = "unexpected property"
	case errors.Is(err, api.ErrHex):
		out.expected = "expected hexadecimal digits, two for each byte"
	case errors.As(err, &semantic):
		out.expected = "not of the expected type or range"
	}
	if errors.As(err, &syntactic) {
		out.pointer = string(syntactic.JSONPointer)
	}
	if errors.As(err, &semantic) {
		out.pointer = string(semantic.JSONPointer)
	}
	return out
}

// wantsJSON refuses a body of another media type or encoding: it would be read as
// JSON all the same.
func wantsJSON(a huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if !isMedia(ctx, "application/json") {
			_ = huma.WriteErr(a, ctx, http.StatusUnsupportedMediaType, "")
			return
		}
		next(ctx)
	}
}

func isMedia(ctx huma.Context, want string) bool {
	media, params, err := mime.ParseMediaType(ctx.Header("Content-Type"))
	charset := strings.ToLower(params["charset"])
	encoding := strings.ToLower(ctx.Header("Content-Encoding"))
	return err == nil && media == want && (charset == "" || charset == "utf-8") && (encoding == "" || encoding == "identity")
}
