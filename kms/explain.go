package kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cardkms/kms/approval"
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

// A card whose proof fails is explained by trying, inside the token, what else could
// have computed it. The search is over lists in this package and nothing that a caller
// chooses, and its answer is the names of options, never a value: it tells whoever asks
// one of a few hundred words about one answer, of which a card gives as many as one
// likes to anybody.

// question is a card's proof that did not verify.
type question interface {
	// search tries every hypothesis until one explains the proof.
	search(ctx context.Context, s *Service) (explanation, error)
}

// explanation is what the search found, in words of this package.
type explanation string

// Words that stand alone.
const (
	foundNothing explanation = "none"
	foundRight   explanation = "as-expected"
)

// said returns the words for the log and the case.
func (e explanation) said() string { return string(e) }

// explain returns the first of some hypotheses that try accepts. try returns the words
// in which it differs from what the service expects. A key whose token is away keeps
// nobody from finding an explanation under another key, but from saying that there is none.
// A token that hangs ends the search: each try would take a session of it.
func explain[H any](all []H, try func(H) (found bool, words []string, err error)) (explanation, error) {
	var away error
	for _, h := range all {
		found, words, err := try(h)
		switch code := fault.CodeOf(err); {
		case code == fault.TokenUnable:
		case code == fault.TokenUnavailable && !errors.Is(err, context.DeadlineExceeded):
			away = err
		case err != nil:
			return "", err
		case found && len(words) == 0:
			return foundRight, nil
		case found:
			return explanation(strings.Join(words, "/")), nil
		}
	}
	if away != nil {
		return "", away
	}
	return foundNothing, nil
}

// searchable reports whether the objects of a key version are there to search under.
func searchable(v key.Version) bool { return v.State != key.Destroyed && !v.Destroying }

// verified turns the answer of a proof into whether it verified.
func verified(err error) (bool, error) {
	if fault.CodeOf(err) == fault.ProofFailed {
		return false, nil
	}
	return err == nil, err
}

// questionOf reads a case of card.explain: about an application cryptogram, which has
// the parameter arqc; about the MACs of a session, which has a transcript as its document;
// or about a card's answer to INITIALIZE UPDATE.
func (s *Service) questionOf(ctx context.Context, c Case, card []byte) (question, error) {
	p := c.Proposal
	_, signed := p.Params["sha256"]
	if signed != (c.Document != "") {
		return nil, fault.New(fault.InvalidInput, "a transcript is the document, and sha256 its digest")
	}
	if _, ok := p.Params["arqc"]; ok {
		return s.emvQuestionOf(p, card)
	}
	if signed {
		return s.macQuestionOf(ctx, c, card)
	}
	return s.gpQuestionOf(ctx, p, card)
}

// onlyParams reports whether a proposal has no other parameters than these.
func onlyParams(p approval.Proposal, names ...string) bool {
	for name := range p.Params {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
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
	return q.search(ctx, s)
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
