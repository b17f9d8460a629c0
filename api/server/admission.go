package server

import (
	"crypto/x509"
	"errors"
	"fmt"

	"cardkms/kms"
)

// Admission says who is let in. A server may be given another one while it runs; the next
// request of a connection that is open already is judged by it.
type Admission struct {
	Clients map[string]kms.Caller // by SPIFFE URI
	// Proxies are the SPIFFE URIs of load balancers that end the TLS of clients and say
	// in Client-Cert ([RFC 9440]) whose certificate they saw. ClientCAs verify that again.
	Proxies   []string
	ClientCAs *x509.CertPool
	// Revoked reports whether a chain that was verified once, the client's certificate
	// first, is not to be believed now; nil for none.
	Revoked func(chain []*x509.Certificate) bool
}

// admitted is an Admission that was checked.
type admitted struct {
	clients   map[string]kms.Caller
	proxies   map[string]bool
	clientCAs *x509.CertPool
	revoked   func(chain []*x509.Certificate) bool
}

func (a Admission) check() (*admitted, error) {
	if len(a.Clients) == 0 {
		return nil, errors.New("server: the configuration lacks the clients")
	}
	out := &admitted{clients: map[string]kms.Caller{}, proxies: map[string]bool{}, clientCAs: a.ClientCAs, revoked: a.Revoked}
	if out.revoked == nil {
		out.revoked = func([]*x509.Certificate) bool { return false }
	}
	for uri, c := range a.Clients {
		role, err := roleOf(uri)
		if err != nil {
			return nil, fmt.Errorf("server: client %q: %w", uri, err)
		}
		if c.Role != role || c.ID != "" && c.ID != uri {
			return nil, fmt.Errorf("server: client %q: its URI and its configuration name different roles or identities", uri)
		}
		c.ID = uri
		out.clients[uri] = c
	}
	for _, uri := range a.Proxies {
		if out.proxies[uri] = clientURI.MatchString(uri); !out.proxies[uri] || out.clients[uri].ID != "" || a.ClientCAs == nil {
			return nil, fmt.Errorf("server: proxy %q: it is no SPIFFE URI, or a client too, or there are no client CAs", uri)
		}
	}
	return out, nil
}

// Prepare checks another Admission and returns what puts it in force.
func (s *Server) Prepare(a Admission) (apply func(), err error) {
	checked, err := a.check()
	if err != nil {
		return nil, err
	}
	return func() { s.server.admitted.Store(checked) }, nil
}
