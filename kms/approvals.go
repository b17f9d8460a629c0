package kms

import (
	"context"
	"errors"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// ProposeInput is what an officer wants to have done.
type ProposeInput struct {
	Issuer    string // empty: concerns every issuer
	Operation string
	Object    string
	Params    map[string]string
	// Document goes with a proposal that signs its digest: of profile.register, and of
	// card.explain about MACs.
	Document string
	// Expected is the version of the object that the officer means; nil is the one
	// that it has now.
	Expected *int64
	Life     time.Duration // whole seconds, at most approval.LifeMax
	Preview  bool          // check everything and keep nothing
}

// Propose keeps a proposal for others to approve.
func (s *Service) Propose(ctx context.Context, r Request, in ProposeInput) (c Case, err error) {
	e, err := s.start(ctx, r, ApprovalPropose, in.Issuer, "proposals")
	if err != nil {
		return c, err
	}
	var encoding []byte
	if c, err = s.draft(ctx, r, in); err == nil {
		encoding, err = c.Proposal.Encode()
	}
	if err != nil {
		return Case{}, s.refuse(ctx, e, err)
	}
	if in.Preview {
		return c, nil
	}
	e.object, e.alias = proposalObject(c.Proposal.ID), c.alias()
	e.digest, e.detail = audit.Digest(approval.DigestOf(encoding)), approval.ProposeDetail(encoding)
	return c, s.settle(ctx, e, func(tx store.Rows) error {
		f, err := s.facts(tx, c)
		if err != nil {
			return err
		}
		if _, err := approval.New(c.Proposal, f); err != nil {
			return err
		}
		return put(tx, caseRef(c.Proposal.ID), 0, c)
	})
}

// refusal is a change's own error, as against one of the log.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// settle logs a change of rows with its outcome. A change that fails is undone and
// leaves an entry that says why. What the change computes is the caller's to read
// only when settle returns nil: else it may still be running.
func (s *Service) settle(ctx context.Context, e event, change func(store.Rows) error) error {
	err := s.log(ctx, &e, func(tx store.Rows) error {
		if err := change(tx); err != nil {
			return refusal{err}
		}
		return nil
	})
	if why := (refusal{}); errors.As(err, &why) {
		return s.refuse(ctx, e, why.error)
	}
	return err
}

func proposalObject(id string) string { return "proposals/" + id }

// draft makes the case of a proposal and checks that it makes sense.
func (s *Service) draft(ctx context.Context, r Request, in ProposeInput) (c Case, err error) {
	x, ok := executors[in.Operation]
	if !ok {
		return c, fault.New(fault.InvalidInput, "no operation of this name needs approvals")
	}
	if in.Document != "" && in.Operation != approval.ProfileRegister && in.Operation != approval.CardExplain {
		return c, fault.New(fault.InvalidInput, "this operation has no document")
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	c.Nonce, c.Document = newID(), in.Document
	c.Proposal = approval.Proposal{
		ID: newID(), Issuer: in.Issuer, Operation: in.Operation, Object: in.Object, Params: in.Params,
		Created: now, Expires: now.Add(in.Life),
	}
	if x.params != nil && !c.Proposal.Only(x.params...) {
		return c, fault.New(fault.InvalidInput, in.Operation+" has no other parameters than "+strings.Join(x.params, " and "))
	}
	officer, err := s.officer(ctx, r, in)
	if err != nil {
		return c, err
	}
	c.Proposal.Proposer = officer.Name
	if x.keep != nil {
		if err := x.keep(ctx, s, &c); err != nil {
			return c, err
		}
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		f, err := s.facts(tx, c)
		if err != nil {
			return err
		}
		c.Proposal.Expected = f.Version
		if in.Expected != nil {
			c.Proposal.Expected = *in.Expected
		}
		c.Case, err = approval.New(c.Proposal, f)
		c.describe(f)
		return err
	})
	if err == nil {
		err = x.check(ctx, s, c.Proposal)
	}
	return c, err
}

// officer returns the officer that a caller is, who may propose this. It goes by the
// authenticated identity, never by what a request says.
func (s *Service) officer(ctx context.Context, r Request, in ProposeInput) (o approval.Officer, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err := acting(tx, in.Operation, s.cfg.Now())
		if err == nil {
			o, err = all.Identified(r.Caller.ID, in.Issuer)
		}
		return err
	})
	return o, err
}

// DecideInput is an officer's signed decision.
type DecideInput struct {
	ID        string
	Decision  approval.Decision
	Signature []byte // over approval.Statement
}

// Decide keeps an officer's approval or rejection. The officer is the caller; the
// signature must be that officer's. It stands in the entry, so that an auditor can
// verify it.
func (s *Service) Decide(ctx context.Context, r Request, in DecideInput) (Case, error) {
	op := ApprovalApprove
	if in.Decision == approval.Reject {
		op = ApprovalReject
	}
	e, err := s.start(ctx, r, op, r.Caller.Issuer, proposalObject(in.ID))
	if err != nil {
		return Case{}, err
	}
	c, o, err := s.seen(ctx, r, in.ID)
	if err != nil {
		return Case{}, s.refuse(ctx, e, err)
	}
	digest, err := c.Proposal.Digest()
	if err != nil {
		return Case{}, err
	}
	e.issuer, e.alias, e.digest = c.Proposal.Issuer, c.alias(), audit.Digest(digest)
	e.detail = approval.DecideDetail(o.Name, in.Signature)
	var decided Case
	err = s.settle(ctx, e, func(tx store.Rows) error {
		have, version, f, err := s.find(tx, r, in.ID)
		if err != nil {
			return err
		}
		a := approval.Approval{Officer: o.Name, Decision: in.Decision, Time: f.Now, Signature: in.Signature}
		if have.Case, err = have.Decide(a, f); err != nil {
			return err
		}
		have.describe(f)
		have.Nonce, decided = newID(), have
		return put(tx, caseRef(in.ID), version, have)
	})
	if err != nil {
		return Case{}, err
	}
	return decided, nil
}
