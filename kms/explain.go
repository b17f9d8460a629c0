package kms

import (
	"context"
	"fmt"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/explain"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// ExplainsPerDay is how often the answers of one card are explained within a day.
const ExplainsPerDay = 3

// explained is what the service remembers of the explanations of one card. It is a row
// of its own: a card that goes on failing does not void the proposal about it.
type explained struct {
	At    []time.Time `json:"at"` // the last ExplainsPerDay
	Nonce string      `json:"nonce"`
}

// questionOf reads a case of card.explain: about an application cryptogram, which has
// the parameter arqc; about the MACs of a session, which has a transcript as its document;
// or about a card's answer to INITIALIZE UPDATE.
func (s *Service) questionOf(ctx context.Context, c Case, card []byte) (explain.Question, error) {
	p := c.Proposal
	_, signed := p.Params["sha256"]
	if signed != (c.Document != "") {
		return nil, fault.New(fault.InvalidInput, "a transcript is the document, and sha256 its digest")
	}
	if _, ok := p.Params["arqc"]; ok {
		return explain.Cryptogram(p.Params, card)
	}
	of, err := s.profile(ctx, p.Issuer, p.Params["profile"])
	switch {
	case err != nil:
		return nil, err
	case !signed:
		return explain.Answer(p.Params, card, of.Profile)
	case !p.Signs([]byte(c.Document)):
		return nil, fault.New(fault.InvalidInput, "sha256 is not the digest of the transcript")
	}
	return explain.Session(p.Params, c.Document, card, of.Profile)
}

// hideExplained puts the pseudonym of any card, known or not, in the place of its key
// diversification data.
func hideExplained(ctx context.Context, s *Service, c *Case) error {
	kdd, err := kddOf(c.Proposal)
	if err != nil {
		return err
	}
	if _, err := s.questionOf(ctx, *c, kdd); err != nil {
		return err
	}
	ref, err := s.cardRef(ctx, c.Proposal.Issuer, kdd)
	if err != nil {
		return err
	}
	sealed, err := s.sealCard(ctx, ref, kdd)
	if err != nil {
		return err
	}
	return s.hide(ctx, c, ref, sealed, kdd)
}

func explainedRow(c Case) (store.Ref, error) {
	return store.Ref{Kind: kindExplained, Issuer: c.Proposal.Issuer, ID: c.Card}, nil
}

// checkExplain looks that there is a key to search under. Which card it is about the
// proposal no longer says.
func checkExplain(ctx context.Context, s *Service, p approval.Proposal) error {
	if _, ok := p.Params["arqc"]; ok {
		return s.exists(ctx, p.Issuer, p.Params["key"], key.EMVAC)
	}
	of, err := s.profile(ctx, p.Issuer, p.Params["profile"])
	if err != nil {
		return err
	}
	return s.exists(ctx, p.Issuer, p.Params["key"], of.Usage())
}

// actExplain searches. Running it again after a crash finds the same.
func actExplain(ctx context.Context, s *Service, p approval.Proposal) (any, error) {
	var c Case
	var had explained
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if _, err := need(tx, caseRef(p.ID), &c); err != nil {
			return err
		}
		ref, err := explainedRow(c)
		if err == nil {
			_, err = get(tx, ref, &had)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if n := len(had.At); n >= ExplainsPerDay && s.cfg.Now().Sub(had.At[0]) < 24*time.Hour {
		return nil, fault.New(fault.RateLimited, fmt.Sprintf("a card's answers are explained %d times a day", ExplainsPerDay))
	}
	kdd, err := s.openCard(ctx, p.Issuer, c.Card, c.Sealed)
	if err != nil {
		return nil, err
	}
	q, err := s.questionOf(ctx, c, kdd)
	if err != nil {
		return nil, err
	}
	versions, err := s.versions(ctx, p.Issuer)
	if err != nil {
		return nil, err
	}
	return q.Search(ctx, s.cfg.Token, versions)
}

func changeExplain(s *Service, rows store.Rows, p approval.Proposal, _ any) error {
	var c Case
	if _, err := need(rows, caseRef(p.ID), &c); err != nil {
		return err
	}
	ref, err := explainedRow(c)
	if err != nil {
		return err
	}
	var had explained
	if _, err := get(rows, ref, &had); err != nil {
		return err
	}
	had.At = append(had.At, s.cfg.Now().UTC())
	had.At, had.Nonce = had.At[max(0, len(had.At)-ExplainsPerDay):], newID()
	return put(rows, ref, p.Expected, had)
}
