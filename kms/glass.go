package kms

import (
	"context"
	"log/slog"

	"cardkms/audit"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

var glassRef = store.Ref{Kind: kindSystem, ID: "glass"}

// glassClosed is how the log tells that a broken glass is over.
const glassClosed Operation = "glass.closed"

func glassRow(c Case) (store.Ref, error) {
	if c.Proposal.Object != approval.GlassObject {
		return store.Ref{}, fault.New(fault.InvalidInput, "the glass is "+approval.GlassObject)
	}
	return glassRef, nil
}

func (s *Service) glass(ctx context.Context) (g approval.Glass, version int64, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		version, err = get(tx, glassRef, &g)
		return err
	})
	return g, version, err
}

func checkBreak(ctx context.Context, s *Service, p approval.Proposal) error {
	if _, err := approval.BrokenBy(p); err != nil {
		return err
	}
	g, _, err := s.glass(ctx)
	if err == nil && !g.Until.IsZero() && !g.Closed {
		err = fault.New(fault.Conflict, "the glass is broken, or the log does not say yet that it is over")
	}
	return err
}

func changeBreak(s *Service, rows store.Rows, p approval.Proposal, _ any) error {
	life, err := approval.BrokenBy(p)
	if err != nil {
		return err
	}
	var g approval.Glass
	if _, err := get(rows, glassRef, &g); err != nil {
		return err
	}
	g.Until, g.Closed, g.Unreviewed = s.cfg.Now().UTC().Add(life), false, g.Unreviewed+1
	s.tellGlass("glass: broken", g)
	return put(rows, glassRef, p.Expected, g)
}

func checkReview(ctx context.Context, s *Service, p approval.Proposal) error {
	if err := approval.ReviewedBy(p); err != nil {
		return err
	}
	g, _, err := s.glass(ctx)
	if err == nil && (!g.Closed || g.Unreviewed == 0) {
		err = fault.New(fault.Conflict, "there is no broken glass that is over and not reviewed")
	}
	return err
}

func changeReview(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	var g approval.Glass
	if _, err := get(rows, glassRef, &g); err != nil {
		return err
	}
	g.Unreviewed--
	return put(rows, glassRef, p.Expected, g)
}

// tendGlass raises the alarm while the glass is broken and until it was reviewed,
// and logs that it is over.
func (s *Service) tendGlass(ctx context.Context) error {
	g, version, err := s.glass(ctx)
	switch {
	case err != nil || version == 0 || g.Unreviewed == 0:
		return err
	case g.Broken(s.cfg.Now()):
		s.tellGlass("glass: broken, sealed officers may act", g)
		return nil
	}
	s.tellGlass("glass: it was broken, and officers have yet to review what was done, once for each time (glass.review)", g)
	if g.Closed {
		return nil
	}
	g.Closed = true
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: glassClosed, object: approval.GlassObject}
	return s.log(ctx, &e, func(tx store.Rows) error { return put(tx, glassRef, version, g) })
}

func (s *Service) tellGlass(what string, g approval.Glass) {
	s.cfg.Logger.Error(what, slog.Time("until", g.Until))
}
