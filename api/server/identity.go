package server

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

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
// certificate, known by configuration, in the role that the URI names. Where a load
// balancer of the configuration ended the client's TLS, it is the certificate that the
// load balancer says it saw.
func (s *server) caller(r *http.Request) (kms.Caller, error) {
	in := s.admitted.Load()
	if who, ok := r.Context().Value(personKey{}).(Person); ok {
		return in.person(who, r)
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return kms.Caller{}, fault.New(fault.Unauthenticated, "a verified client certificate is required")
	}
	uri, err := in.uriOf(r.TLS.VerifiedChains[0])
	if err != nil {
		return kms.Caller{}, err
	}
	seen := r.Header.Values(headerClientCert)
	if !in.proxies[uri.String()] {
		if len(seen) > 0 {
			return kms.Caller{}, fault.New(fault.Unauthenticated, "only a load balancer of the configuration sends Client-Cert")
		}
		return in.known(uri)
	}
	chain, err := in.forwarded(seen)
	if err != nil {
		return kms.Caller{}, err
	}
	if uri, err = in.uriOf(chain); err != nil {
		return kms.Caller{}, err
	}
	return in.known(uri)
}

// uriOf returns the URI of a certificate that is neither revoked nor over. It is asked for
// each request: a connection outlives what its handshake saw.
func (in *admitted) uriOf(chain []*x509.Certificate) (*url.URL, error) {
	if in.revoked(chain) {
		return nil, fault.New(fault.Unauthenticated, "the client certificate is revoked")
	}
	if time.Now().After(chain[0].NotAfter) {
		return nil, fault.New(fault.Unauthenticated, "the client certificate is over")
	}
	if len(chain[0].URIs) != 1 {
		return nil, fault.New(fault.Unauthenticated, "the client certificate must have exactly one URI")
	}
	return chain[0].URIs[0], nil
}

// headerClientCert carries a client's certificate from a load balancer, as a byte
// sequence of [RFC 8941], Section 3.3.5: [RFC 9440], Section 2.2.
const headerClientCert = "Client-Cert"

// forwarded reads a client's certificate and verifies it once more: the load balancer is
// believed that the client holds its key, and nothing else.
func (in *admitted) forwarded(seen []string) ([]*x509.Certificate, error) {
	refused := func(err error) error {
		return fault.Because(fault.Unauthenticated, "the load balancer forwarded no valid client certificate", err)
	}
	if len(seen) != 1 || len(seen[0]) < 2 || seen[0][0] != ':' || seen[0][len(seen[0])-1] != ':' {
		return nil, refused(nil)
	}
	der, err := base64.StdEncoding.DecodeString(seen[0][1 : len(seen[0])-1])
	if err != nil {
		return nil, refused(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, refused(err)
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: in.clientCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, refused(err)
	}
	return chains[0], nil
}

func (in *admitted) known(u *url.URL) (kms.Caller, error) {
	uri := u.String()
	role, err := roleOf(uri)
	if err != nil {
		return kms.Caller{}, fault.Because(fault.Unauthenticated, "the URI of the client certificate names no role", err)
	}
	c, ok := in.clients[uri]
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
		q := about(r.Context())
		q.caller = c
		if r.Header.Get(headerClientCert) != "" { // so a load balancer sent it
			q.origin = forwardedFor(r)
		}
		next.ServeHTTP(w, r)
	})
}

// forwardedFor returns the address from which a load balancer got a request: the last one
// that it adds to X-Forwarded-For.
func forwardedFor(r *http.Request) string {
	all := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	a, err := netip.ParseAddr(strings.TrimSpace(all[len(all)-1]))
	if err != nil {
		return ""
	}
	return a.Unmap().WithZone("").String()
}
