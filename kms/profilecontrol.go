package kms

import (
	"context"
	"maps"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/store"
)

// proven parses a document and runs its known answers through the main token. Their keys are
// objects of a PKCS#11 session under the one label for known answers; the guard of the
// token makes each of them with the template of its class, as it does for its own tests at
// every start, and no key that lives in the token is used with them.
func (s *Service) proven(ctx context.Context, document string) (p profile.Profile, err error) {
	if p, err = profile.Parse([]byte(document)); err != nil || len(p.Answers) == 0 {
		return p, err
	}
	main, err := s.cfg.Holder("")
	if err != nil {
		return p, err
	}
	t, ok := main.(derive.VectorToken)
	if !ok {
		return p, fault.New(fault.TokenUnable, "the token takes no keys of known value, so the known answers cannot be run")
	}
	used, err := s.usedKCVs(ctx)
	if err != nil {
		return p, err
	}
	return p, p.Prove(ctx, t, used)
}

// usedKCVs are the check values of the keys of every issuer, as the database has them now.
func (s *Service) usedKCVs(ctx context.Context) (used []key.KCV, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		for _, issuer := range s.cfg.Issuers {
			versions, err := allVersions(tx, issuer)
			if err != nil {
				return err
			}
			for _, v := range versions {
				used = slices.AppendSeq(used, maps.Values(v.KCVs))
			}
		}
		return nil
	})
	return used, err
}

// profileRow names the row of a proposal about a profile.
func profileRow(c Case) (store.Ref, error) {
	p := c.Proposal
	name, ok := strings.CutPrefix(p.Object, profileObject(p.Issuer, ""))
	if !ok || !key.ValidName(name) {
		return store.Ref{}, fault.New(fault.InvalidInput, "a card profile is named as issuers/ISSUER/profiles/NAME, in its issuer")
	}
	return profileRef(p.Issuer, name), nil
}

// proveProfile checks the document of a case: it is the one whose digest officers sign,
// is about the profile that the proposal names, and its known answers come out.
func (s *Service) proveProfile(ctx context.Context, c Case) error {
	if err := approval.RegisteredBy(c.Proposal); err != nil {
		return err
	}
	if !c.Proposal.Signs([]byte(c.Document)) {
		return fault.New(fault.InvalidInput, "sha256 is not the digest of the document")
	}
	p, err := s.proven(ctx, c.Document)
	if err == nil && c.Proposal.Object != profileObject(c.Proposal.Issuer, p.Name) {
		err = fault.New(fault.InvalidInput, "the document is about a card profile of another name")
	}
	return err
}

func keepProfile(ctx context.Context, s *Service, c *Case) error {
	if _, err := profileRow(*c); err != nil {
		return err
	}
	if !slices.Contains(s.cfg.Issuers, c.Proposal.Issuer) {
		return fault.New(fault.NotFound, "no such issuer")
	}
	return s.proveProfile(ctx, *c)
}

func checkProfile(_ context.Context, _ *Service, p approval.Proposal) error {
	return approval.RegisteredBy(p)
}

// actProfile runs the known answers again: the token may be another one than when the
// profile was proposed, and so may its keys. It can be run again.
func actProfile(ctx context.Context, s *Service, p approval.Proposal) (any, error) {
	var c Case
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err := need(tx, caseRef(p.ID), &c)
		return err
	})
	if err == nil {
		err = s.proveProfile(ctx, c)
	}
	return c, err
}

func changeProfile(s *Service, rows store.Rows, p approval.Proposal, acted any) error {
	c := acted.(Case)
	ref, err := profileRow(c)
	if err != nil {
		return err
	}
	_, err = s.register(rows, CardProfile{Issuer: p.Issuer, Name: ref.ID, Document: c.Document})
	return err
}

func checkWithdraw(ctx context.Context, s *Service, p approval.Proposal) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err := withdrawn(tx, p)
		return err
	})
}

func changeWithdraw(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	c, err := withdrawn(rows, p)
	if err != nil {
		return err
	}
	return put(rows, profileRef(c.Issuer, c.Name), p.Expected, c)
}

// withdrawn returns the profile that a proposal withdraws, as it is after that.
func withdrawn(tx store.Rows, p approval.Proposal) (c CardProfile, err error) {
	if err := approval.WithdrawnBy(p); err != nil {
		return c, err
	}
	ref, err := profileRow(Case{Case: approval.Case{Proposal: p}})
	if err != nil {
		return c, err
	}
	if _, err = need(tx, ref, &c); err == nil && c.Withdrawn {
		err = fault.New(fault.Conflict, "the card profile is withdrawn")
	}
	c.Withdrawn = true
	return c, err
}
