package server

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"cardkms/kms"
	"cardkms/kms/fault"
)

// clientURI is the SPIFFE URI that the audit log can hold: a trust domain, then
// segments.
var clientURI = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+){2,}$`)

const uriBytesMax = 512

// errURI: not a SPIFFE URI of this service. It does not hold the URI.
var errURI = errors.New("the URI is not of the form spiffe://trust-domain/…/role/{role}")

// roleOf returns the role that a client's URI names: the segment after the one
// segment "role".
func roleOf(uri string) (kms.Role, error) {
	if len(uri) > uriBytesMax || !clientURI.MatchString(uri) {
		return "", errURI
	}
	segments := strings.Split(uri, "/")[3:]
	i := slices.Index(segments, "role")
	if i < 0 || i+1 == len(segments) || slices.Contains(segments[i+1:], "role") {
		return "", errURI
	}
	role := kms.Role(segments[i+1])
	if !slices.Contains(kms.Roles(), role) {
		return "", errURI
	}
	return role, nil
}

// caller finds out who sent a request: the one URI in the verified client
// certificate, known by configuration, in the role that the URI names.
func (s *server) caller(r *http.Request) (kms.Caller, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "a verified client certificate is required")
	}
	uris := r.TLS.VerifiedChains[0][0].URIs
	if len(uris) != 1 {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "the client certificate must have exactly one URI")
	}
	return s.known(uris[0])
}

func (s *server) known(u *url.URL) (kms.Caller, error) {
	uri := u.String()
	role, err := roleOf(uri)
	if err != nil {
		return kms.Caller{}, fault.Because(fault.Unauthenticated, "the URI of the client certificate names no role", err)
	}
	c, ok := s.clients[uri]
	if !ok || c.Role != role {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "the client certificate names no known client")
	}
	return c, nil
}

// identify lets known clients pass.
func (s *server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.caller(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		about(r.Context()).caller = c
		next.ServeHTTP(w, r)
	})
}
