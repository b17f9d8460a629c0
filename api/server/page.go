package server

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"unicode/utf8"

	"cardkms/kms/fault"

	"github.com/go-json-experiment/json"
)

// digestOf hashes a request as it was understood: path, query, headers and body.
func digestOf(in any) [sha256.Size]byte {
	b, err := json.Marshal(in, json.Deterministic(true))
	if err != nil {
		panic("server: a request that was decoded cannot be encoded")
	}
	return sha256.Sum256(b)
}

// tag computes the entity tag of a representation and says whether the client
// has it: [HTTP] RFC 9110, Sections 8.8.3 and 13.1.2.
func tag[T any](body T, have string) (*entity[T], error) {
	b, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	out := &entity[T]{Status: http.StatusOK, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, Body: body}
	for candidate := range strings.SplitSeq(have, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == out.ETag || candidate == "*" {
			out.Status = http.StatusNotModified
		}
	}
	return out, nil
}

// token hides a cursor from clients that would build one themselves.
func token(cursor string) string { return base64.RawURLEncoding.EncodeToString([]byte(cursor)) }

// cursor undoes token. The decoder skips line breaks, hence the comparison.
func cursor(opaque string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(opaque)
	if err != nil || !utf8.Valid(b) || token(string(b)) != opaque {
		return "", fault.New(fault.InvalidInput, "the page token is not one of this list")
	}
	return string(b), nil
}
