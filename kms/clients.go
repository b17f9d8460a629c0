package kms

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Clients are let in by configuration and certificate. Beside that one officer suspends a
// client at once, on every node within a second; only an approved proposal of client.resume
// lets it go on. Security officers are not suspended so: one of them could keep the others
// from resuming anything. They are removed by proposal, or revoked by configuration.

const kindClient store.Kind = "client"

const (
	clientsPrefix = "clients/"
	uriScheme     = "spiffe://"
)

// Suspension is a client that officers stopped, or let go on.
type Suspension struct {
	Client    string    `json:"client"` // SPIFFE URI
	Suspended bool      `json:"suspended"`
	By        string    `json:"by"` // identity of the officer
	Since     time.Time `json:"since"`
}

// clientObject returns the resource name of a client: its URI without the scheme. One that
// a resource name cannot hold names no client.
func clientObject(uri string) (string, error) {
	rest, ok := strings.CutPrefix(uri, uriScheme)
	object := clientsPrefix + rest
	if !ok || object != printable(object) {
		return clientsPrefix + "_", fault.New(fault.InvalidInput, "a client is named by its SPIFFE URI, of at most 7 segments of 64 characters")
	}
	return object, nil
}

func clientRef(object string) store.Ref {
	return store.Ref{Kind: kindClient, ID: strings.TrimPrefix(object, clientsPrefix)}
}

// suspended returns why a caller is not served, as far as anybody knew a moment ago.
func (s *Service) suspended(ctx context.Context, c Caller) error {
	if c.Role == SecurityOfficer {
		return nil
	}
	all, err := s.suspensions.get(s.cfg.Now(), "", func(map[string]bool) (map[string]bool, error) {
		all := map[string]bool{}
		err := s.eachSuspension(ctx, func(p Suspension) { all[p.Client] = true })
		return all, err
	})
	if err == nil && all[c.ID] {
		err = fault.New(fault.Forbidden, "a security officer suspended this client; officers resume it (client.resume)")
	}
	return err
}

// eachSuspension calls f for each client that is suspended now.
func (s *Service) eachSuspension(ctx context.Context, f func(Suspension)) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		for after := ""; ; {
			some, next, err := page[Suspension](tx, kindClient, "", after, 500)
			if err != nil {
				return err
			}
			for _, p := range some {
				if p.Suspended {
					f(p)
				}
			}
			if after = next; after == "" {
				return nil
			}
		}
	})
}

// Suspensions returns the clients that are suspended.
func (s *Service) Suspensions(ctx context.Context, r Request) ([]Suspension, error) {
	if err := s.read(ctx, r, ClientRead, "", "clients"); err != nil {
		return nil, err
	}
	out := []Suspension{}
	err := s.eachSuspension(ctx, func(p Suspension) { out = append(out, p) })
	return out, err
}

// SuspendClient refuses a client everything, by one officer. It may be one that the
// configuration does not have yet. Suspending what is suspended changes nothing, so that
// nobody makes a proposal to resume void by it.
func (s *Service) SuspendClient(ctx context.Context, r Request, uri string) (Suspension, error) {
	object, wrong := clientObject(uri)
	e, err := s.start(ctx, r, ClientSuspend, "", object)
	if err != nil {
		return Suspension{}, err
	}
	if wrong == nil && strings.Contains(uri+"/", "/role/"+string(SecurityOfficer)+"/") {
		wrong = fault.New(fault.InvalidInput, "a security officer is removed by proposal (officer.remove), or revoked by configuration")
	}
	if wrong != nil {
		return Suspension{}, s.refuse(ctx, e, wrong)
	}
	// Also after an error: a commit whose answer was lost is a change too.
	defer s.suspensions.forget()
	var p Suspension
	err = s.log(ctx, &e, func(tx store.Rows) error {
		n, err := get(tx, clientRef(object), &p)
		if err != nil || p.Suspended {
			return err
		}
		p = Suspension{Client: uri, Suspended: true, By: r.Caller.ID, Since: s.cfg.Now().UTC()}
		return put(tx, clientRef(object), n, p)
	})
	if err == nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a client is suspended", slog.String("client", uri), slog.String("by", r.Caller.ID))
	}
	return p, err
}

func clientRow(c Case) (store.Ref, error) {
	object := c.Proposal.Object
	if !strings.HasPrefix(object, clientsPrefix) || object != printable(object) || c.Proposal.Issuer != "" || len(c.Proposal.Params) > 0 {
		return store.Ref{}, fault.New(fault.InvalidInput, "a client is resumed as "+clientsPrefix+"TRUST-DOMAIN/..., its URI without the scheme, for every issuer")
	}
	return clientRef(object), nil
}

func checkClientResume(ctx context.Context, s *Service, p approval.Proposal) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		var had Suspension
		_, err := need(tx, clientRef(p.Object), &had)
		if err == nil && !had.Suspended {
			err = fault.New(fault.Conflict, "the client is not suspended")
		}
		return err
	})
}

func changeClientResume(s *Service, rows store.Rows, p approval.Proposal, _ any) error {
	return put(rows, clientRef(p.Object), p.Expected, Suspension{
		Client: uriScheme + strings.TrimPrefix(p.Object, clientsPrefix), By: p.Proposer, Since: s.cfg.Now().UTC(),
	})
}
