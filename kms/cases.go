package kms

import (
	"context"
	"encoding/hex"
	"strings"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Case is a proposal, what was decided about it, and what only the service knows.
type Case struct {
	approval.Case
	// Card and Sealed name the card that the case is about, see cardname.go. Nobody
	// signs them; the object is the card's pseudonym.
	Card   string `json:"card,omitempty"`
	Sealed string `json:"sealed,omitempty"`
	// Document is what the proposal signs the digest of.
	Document string `json:"document,omitempty"`
	// Found is what the operation found out, of those that find something out.
	Found string `json:"found,omitempty"`
	// Nonce is new with every change; see Card.Nonce.
	Nonce string `json:"nonce"`

	// What follows is computed for the reader and not kept.

	// Subject is what the object stands for where the log must not say it: the key
	// diversification data of a card.
	Subject  string         `json:"-"`
	Now      approval.State `json:"-"`
	Counted  int            `json:"-"` // approvals that count now
	Required int            `json:"-"` // k
}

func caseRef(id string) store.Ref { return store.Ref{Kind: kindProposal, ID: id} }

// alias returns the pseudonym of the card that the case is about, empty if it is
// about none.
func (c Case) alias() string {
	if c.Card == "" {
		return ""
	}
	return c.Proposal.Object[strings.LastIndexByte(c.Proposal.Object, '/')+1:]
}

// reveal computes the subject of a case, outside any transaction.
func (s *Service) reveal(ctx context.Context, c *Case) error {
	if c.Card == "" {
		return nil
	}
	kdd, err := s.openCard(ctx, c.Proposal.Issuer, c.Card, c.Sealed)
	c.Subject = strings.ToUpper(hex.EncodeToString(kdd))
	return err
}

// describe computes what readers see.
func (c *Case) describe(f approval.Facts) {
	c.Now, c.Counted, c.Required = c.At(f), c.Case.Counted(f), f.Required
}

// facts reads what a case is judged by.
func (s *Service) facts(tx store.Rows, c Case) (f approval.Facts, err error) {
	x, ok := executors[c.Proposal.Operation]
	if !ok {
		return f, fault.New(fault.InvalidInput, "no operation of this name needs approvals")
	}
	f.Now = s.cfg.Now().UTC()
	ref, err := x.row(c)
	if err != nil {
		return f, err
	}
	if f.Version, err = versionOf(tx, ref); err != nil {
		return f, err
	}
	if f.Officers, err = acting(tx, c.Proposal.Operation, f.Now); err != nil {
		return f, err
	}
	policies, err := policiesOf(tx)
	f.Required = policies.Required(c.Proposal)
	return f, err
}

// find reads a case that the caller may see.
func (s *Service) find(tx store.Rows, r Request, id string) (c Case, version int64, f approval.Facts, err error) {
	if b, err := hex.DecodeString(id); err == nil && len(b) == 16 {
		if version, err = get(tx, caseRef(id), &c); err != nil {
			return c, 0, f, err
		}
	}
	if version == 0 || r.Caller.Issuer != "" && r.Caller.Issuer != c.Proposal.Issuer {
		return Case{}, 0, f, fault.New(fault.NotFound, "no such proposal")
	}
	if f, err = s.facts(tx, c); err == nil {
		c.describe(f)
	}
	return c, version, f, err
}

// Proposal returns one case.
func (s *Service) Proposal(ctx context.Context, r Request, id string) (c Case, err error) {
	if err := s.read(ctx, r, ApprovalRead, r.Caller.Issuer, proposalObject(id)); err != nil {
		return c, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		c, _, _, err = s.find(tx, r, id)
		return err
	})
	if err != nil {
		return c, err
	}
	return c, s.reveal(ctx, &c)
}

// Proposals returns at most limit cases after a cursor; a page may be shorter.
func (s *Service) Proposals(ctx context.Context, r Request, after string, limit int) (cases []Case, next string, err error) {
	if err := s.read(ctx, r, ApprovalRead, r.Caller.Issuer, "proposals"); err != nil {
		return nil, "", err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		some, n, err := page[Case](tx, kindProposal, "", after, limit)
		next = n
		for _, c := range some {
			if r.Caller.Issuer != "" && r.Caller.Issuer != c.Proposal.Issuer {
				continue
			}
			f, err := s.facts(tx, c)
			if err != nil {
				return err
			}
			c.describe(f)
			cases = append(cases, c)
		}
		return err
	})
	for i := range cases {
		if err == nil {
			err = s.reveal(ctx, &cases[i])
		}
	}
	return cases, next, err
}

// seen returns a case that the caller may see, and the active officer that the
// caller is.
func (s *Service) seen(ctx context.Context, r Request, id string) (c Case, o approval.Officer, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) (err error) {
		var f approval.Facts
		if c, _, f, err = s.find(tx, r, id); err != nil {
			return err
		}
		o, err = f.Officers.Identified(r.Caller.ID, c.Proposal.Issuer)
		return err
	})
	return c, o, err
}
