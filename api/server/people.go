package server

import (
	"context"
	"net/http"
	"strings"

	"cardkms/kms"
	"cardkms/kms/fault"
)

// Person finds out which client of the configuration somebody is who presents a bearer
// token. What it answers with fault.Unauthenticated reaches the caller.
type Person func(ctx context.Context, token string) (uri string, err error)

type personKey struct{}

// People serves the same API to people who have a bearer token instead of a certificate,
// on a listener of its own: that of programs asks everybody for a certificate. A token
// says who calls and no more; what officers decide they sign with their own keys.
func (s *Server) People(who Person) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), personKey{}, who)))
	})
}

// person finds out who sent a request to People. A program is never let in so: a token is
// for whoever holds it.
func (in *admitted) person(who Person, r *http.Request) (kms.Caller, error) {
	given := r.Header.Values("Authorization")
	if len(given) != 1 || len(r.Header.Values(headerClientCert)) > 0 {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "one bearer token is required")
	}
	// [RFC 6750], Section 2.1; the scheme is compared without case, [RFC 9110], Section 11.1.
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "one bearer token is required")
	}
	uri, err := who(r.Context(), token)
	if err != nil {
		return kms.Caller{}, err
	}
	c, ok := in.clients[uri]
	if !ok || c.Role == kms.UpdateServer {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "the bearer token is of no known person")
	}
	return c, nil
}
