package kms

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
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

// A card whose cryptogram fails is explained by trying, inside the token, what else
// could have computed it. The search is over the lists of this file and nothing that
// a caller chooses, and its answer is the names of options, never a value: it tells
// whoever asks one of a few hundred words about one answer, of which a card gives as
// many as one likes to anybody.

// question is a card's answer that did not verify.
type question struct {
	issuer, key string
	host        []byte
	answer      scp03.Answer
	aid         []byte // of the profile
}

// hypothesis is one way in which a card might have computed its answer.
type hypothesis struct {
	version key.Version
	method  diversify.Method
	enc     diversify.Purpose // which card key is taken for K-ENC
	mac     diversify.Purpose // and for K-MAC
}

// keyOrders are the card keys that might stand in the places of K-ENC and K-MAC: as
// they should, or exchanged by whoever personalised the card.
var keyOrders = [][2]diversify.Purpose{
	{diversify.ENC, diversify.MAC}, {diversify.MAC, diversify.ENC}, {diversify.DEK, diversify.MAC}, {diversify.ENC, diversify.DEK},
	{diversify.MAC, diversify.DEK}, {diversify.DEK, diversify.ENC}, {diversify.ENC, diversify.ENC}, {diversify.MAC, diversify.MAC},
}

// hypotheses returns all that are tried, the nearest to what the service expects
// first: at most one for each version, method and order of keys.
func (q question) hypotheses(versions []key.Version) (out []hypothesis) {
	for _, v := range versions {
		if v.ID.Name != q.key || v.Usage != key.GPSCP03 || v.State == key.Destroyed {
			continue
		}
		own := diversify.Method(v.Diversification)
		methods := slices.DeleteFunc(diversify.Methods(), func(m diversify.Method) bool { return m == own })
		for _, m := range append(methods, own) {
			if diversify.Fits(m, v.Algorithm, v.CardAlgorithm) != nil || (m == diversify.None) != (v.Diversification == string(diversify.None)) {
				continue
			}
			for _, o := range keyOrders {
				out = append(out, hypothesis{version: v, method: m, enc: o[0], mac: o[1]})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b hypothesis) int { return cmp.Compare(len(q.differences(a)), len(q.differences(b))) })
	return out
}

// differences names in what a hypothesis differs from what the service expects.
func (q question) differences(h hypothesis) (out []string) {
	if h.version.KVN != q.answer.KVN {
		out = append(out, fmt.Sprintf("kvn:%02X", h.version.KVN))
	}
	if string(h.method) != h.version.Diversification {
		out = append(out, "diversification:"+string(h.method))
	}
	if h.enc != diversify.ENC || h.mac != diversify.MAC {
		out = append(out, "keys:"+h.enc.String()+"-"+h.mac.String())
	}
	return out
}

// static refers to the card keys of a hypothesis.
func (q question) static(h hypothesis) (st scp03.Static, err error) {
	v := h.version
	v.Diversification = string(h.method)
	part := map[diversify.Purpose]key.Part{diversify.ENC: key.ENC, diversify.MAC: key.MAC, diversify.DEK: key.DEK}
	if h.method == diversify.None && (h.enc == diversify.DEK || h.mac == diversify.DEK) {
		return st, fault.New(fault.TokenUnable, "a K-DEK that the token holds only wraps")
	}
	if st.ENC, err = cardKey(v, part[h.enc], q.answer.KDD, diversify.Target{Purpose: h.enc, Class: derive.Static}); err != nil {
		return st, err
	}
	st.MAC, err = cardKey(v, part[h.mac], q.answer.KDD, diversify.Target{Purpose: h.mac, Class: derive.Static})
	return st, err
}

// try reports what of an answer a hypothesis explains: the cryptogram, and the
// challenge where it is pseudo-random.
func (s *Service) try(ctx context.Context, q question, h hypothesis) (cryptogram bool, words []string, err error) {
	static, err := q.static(h)
	if err != nil {
		return false, nil, err
	}
	session := scp03.SessionKeys(static, q.host, q.answer.CardChallenge)
	defer s.cfg.Token.Release(session.ENC, session.MAC, session.RMAC, static.ENC, static.MAC)
	err = scp03.VerifyCard(ctx, s.cfg.Token, session, q.host, q.answer)
	if fault.CodeOf(err) == fault.ProofFailed {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	words = q.differences(h)
	if !q.answer.CounterIncluded {
		return true, words, nil
	}
	word, err := s.challenge(ctx, q, static)
	if word != "" {
		words = append(words, word)
	}
	return true, words, err
}

// challenge says what is wrong with the pseudo-random challenge of a card whose
// cryptogram verified: whether another counter or an AID less would explain it.
func (s *Service) challenge(ctx context.Context, q question, st scp03.Static) (string, error) {
	if len(q.aid) == 0 {
		return "aid:missing-in-profile", nil
	}
	for _, c := range []struct {
		word  string
		delta int
	}{{"", 0}, {"counter:one-more", 1}, {"counter:one-less", -1}} {
		a := q.answer
		a.Counter = uint32(int(a.Counter)+c.delta) & scp03.CounterMax
		err := scp03.VerifyChallenge(ctx, s.cfg.Token, st.ENC, a, q.aid)
		if err == nil || fault.CodeOf(err) != fault.ProofFailed {
			return c.word, err
		}
	}
	return "challenge:other-aid-or-random", nil
}

// explanation is what the search found, in words of this file.
type explanation string

// Words that stand alone.
const (
	foundNothing explanation = "none"
	foundRight   explanation = "as-expected"
)

// said returns the words for the log and the case.
func (e explanation) said() string { return string(e) }

// search tries every hypothesis until one explains the answer.
func (s *Service) search(ctx context.Context, q question) (explanation, error) {
	all, err := s.versions(ctx, q.issuer)
	if err != nil {
		return "", err
	}
	for _, h := range q.hypotheses(all) {
		found, words, err := s.try(ctx, q, h)
		switch {
		case fault.CodeOf(err) == fault.TokenUnable:
			continue
		case err != nil:
			return "", err
		case found && len(words) == 0:
			return foundRight, nil
		case found:
			return explanation(strings.Join(words, "/")), nil
		}
	}
	return foundNothing, nil
}

// questionOf reads a proposal card.explain: key, host (the host challenge) and answer
// (the card's answer without its first 10 bytes and status word: a proposal stands in
// the log and names no card), and profile if it is not default.
func (s *Service) questionOf(ctx context.Context, p approval.Proposal, kdd []byte) (q question, err error) {
	bad := fault.New(fault.InvalidInput, "an answer is explained by key, host (the host challenge) and answer (the card's answer behind its 10 bytes of key diversification data), and maybe profile")
	for name := range p.Params {
		if !slices.Contains([]string{"key", "host", "answer", "profile"}, name) {
			return q, bad
		}
	}
	of, err := s.profile(ctx, p.Issuer, p.Params["profile"])
	if err != nil {
		return q, err
	}
	q = question{issuer: p.Issuer, key: p.Params["key"], aid: of.AID}
	rest, err := hex.DecodeString(p.Params["answer"])
	if err != nil {
		return q, bad
	}
	if q.host, err = hex.DecodeString(p.Params["host"]); err != nil || len(q.host) != int(scp03.S8) && len(q.host) != int(scp03.S16) {
		return q, bad
	}
	q.answer, err = scp03.ParseAnswer(append(slices.Clone(kdd), rest...), scp03.Mode(len(q.host)))
	return q, err
}

// hideExplained puts the pseudonym of any card, known or not, in the place of its key
// diversification data.
func hideExplained(ctx context.Context, s *Service, c *Case) error {
	kdd, err := kddOf(c.Proposal)
	if err != nil {
		return err
	}
	if _, err := s.questionOf(ctx, c.Proposal, kdd); err != nil {
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

func checkExplain(ctx context.Context, s *Service, p approval.Proposal) error {
	return s.exists(ctx, p.Issuer, p.Params["key"], key.GPSCP03)
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
	q, err := s.questionOf(ctx, p, kdd)
	if err != nil {
		return nil, err
	}
	return s.search(ctx, q)
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
