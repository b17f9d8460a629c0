package kms

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

// gpQuestion is an answer to INITIALIZE UPDATE.
type gpQuestion struct {
	issuer, key string
	host        []byte
	profile     profile.Profile
	answer      scp03.Answer
	old         scp02.Answer // instead of it under SCP02
}

// gpQuestionOf reads key, host (the host challenge), answer (the card's answer without
// its first 10 bytes and status word: a proposal stands in the log and names no card),
// and profile if it is not default. A question about MACs has sha256 beside.
func (s *Service) gpQuestionOf(ctx context.Context, p approval.Proposal, kdd []byte) (q gpQuestion, err error) {
	bad := fault.New(fault.InvalidInput, "an answer is explained by key, host (the host challenge) and answer (the card's answer behind its 10 bytes of key diversification data), and maybe profile; MACs also by sha256 and a transcript as the document")
	if !onlyParams(p, "key", "host", "answer", "profile", "sha256") {
		return q, bad
	}
	q = gpQuestion{issuer: p.Issuer, key: p.Params["key"]}
	of, err := s.profile(ctx, p.Issuer, p.Params["profile"])
	if err != nil {
		return q, err
	}
	if q.profile = of.Profile; q.profile.Agreed() {
		return q, fault.New(fault.InvalidInput, "answers of cards of SCP11 are not explained: their keys follow from no master")
	}
	rest, err := hex.DecodeString(p.Params["answer"])
	if err != nil {
		return q, bad
	}
	if q.host, err = hex.DecodeString(p.Params["host"]); err != nil || len(q.host) != int(scp03.S8) && len(q.host) != int(scp03.S16) {
		return q, bad
	}
	whole := append(slices.Clone(kdd), rest...)
	if q.profile.Legacy() {
		q.old, err = scp02.ParseAnswer(whole)
		q.answer.KDD, q.answer.KVN = q.old.KDD, q.old.KVN
		return q, err
	}
	q.answer, err = scp03.ParseAnswer(whole, scp03.Mode(len(q.host)))
	return q, err
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
func (q gpQuestion) hypotheses(versions []key.Version) (out []hypothesis) {
	for _, v := range versions {
		if v.ID.Name != q.key || v.Usage != q.profile.Usage() || !searchable(v) {
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
func (q gpQuestion) differences(h hypothesis) (out []string) {
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

// cardKeys refers to the two card keys of a hypothesis.
func (q gpQuestion) cardKeys(h hypothesis, c derive.Class) (enc, mac *derive.Key, err error) {
	v := h.version
	v.Diversification = string(h.method)
	if h.method == diversify.None && c == derive.Static && (h.enc == diversify.DEK || h.mac == diversify.DEK) {
		return nil, nil, fault.New(fault.TokenUnable, "a K-DEK that the token holds only wraps")
	}
	if enc, err = cardkey.Of(v, q.answer.KDD, diversify.Target{Purpose: h.enc, Class: c}); err != nil {
		return nil, nil, err
	}
	mac, err = cardkey.Of(v, q.answer.KDD, diversify.Target{Purpose: h.mac, Class: c})
	return enc, mac, err
}

func (q gpQuestion) search(ctx context.Context, s *Service) (explanation, error) {
	all, err := s.versions(ctx, q.issuer)
	if err != nil {
		return "", err
	}
	try := q.try
	if q.profile.Legacy() {
		try = q.tryLegacy
	}
	return explain(q.hypotheses(all), func(h hypothesis) (bool, []string, error) { return try(ctx, s, h) })
}

// under reports whether a hypothesis explains the card cryptogram, and what then says of
// its keys, in further words.
func (q gpQuestion) under(ctx context.Context, s *Service, h hypothesis, then func(scp03.Static, scp03.Session) ([]string, error)) (cryptogram bool, words []string, err error) {
	var static scp03.Static
	if static.ENC, static.MAC, err = q.cardKeys(h, derive.Static); err != nil {
		return false, nil, err
	}
	session := scp03.SessionKeys(static, q.host, q.answer.CardChallenge)
	defer s.cfg.Token.Release(session.ENC, session.MAC, session.RMAC, static.ENC, static.MAC)
	cryptogram, err = verified(scp03.VerifyCard(ctx, s.cfg.Token, session, q.host, q.answer))
	if err != nil || !cryptogram {
		return false, nil, err
	}
	more, err := then(static, session)
	return true, append(q.differences(h), more...), err
}

// try reports what of an answer a hypothesis explains: the cryptogram, and the
// challenge where it is pseudo-random.
func (q gpQuestion) try(ctx context.Context, s *Service, h hypothesis) (cryptogram bool, words []string, err error) {
	return q.under(ctx, s, h, func(static scp03.Static, _ scp03.Session) ([]string, error) {
		if !q.answer.CounterIncluded {
			return nil, nil
		}
		word, err := q.challenge(ctx, s, static)
		if fault.CodeOf(err) == fault.TokenUnable {
			word, err = notChecked, nil
		}
		if word == "" {
			return nil, err
		}
		return []string{word}, err
	})
}

// challenge says what is wrong with the pseudo-random challenge of a card whose
// cryptogram verified: whether another counter or an AID less would explain it.
func (q gpQuestion) challenge(ctx context.Context, s *Service, st scp03.Static) (string, error) {
	if len(q.profile.AID) == 0 {
		return "aid:missing-in-profile", nil
	}
	for _, c := range []struct {
		word  string
		delta int
	}{{"", 0}, {"counter:one-more", 1}, {"counter:one-less", -1}} {
		a := q.answer
		a.Counter = uint32(int(a.Counter)+c.delta) & scp03.CounterMax
		ok, err := verified(scp03.VerifyChallenge(ctx, s.cfg.Token, st.ENC, a, q.profile.AID))
		if ok || err != nil {
			return c.word, err
		}
	}
	return otherChallenge, nil
}

// What is said of a challenge that nothing explains, and of one that the token cannot compute.
const (
	otherChallenge = "challenge:other-aid-or-random"
	notChecked     = "challenge:not-checked"
)

// underLegacy reports whether a hypothesis explains the card cryptogram of SCP02, and what
// then says of its keys: whether it may be the right one, in further words. The cryptogram
// is of S-ENC alone and says nothing of K-MAC.
func (q gpQuestion) underLegacy(ctx context.Context, s *Service, h hypothesis, then func(derive.TDEAToken, scp02.Session) (bool, []string, error)) (found bool, words []string, err error) {
	t, ok := s.cfg.Token.(derive.TDEAToken)
	if !ok {
		return false, nil, errNoRetail
	}
	var static scp02.Static
	if static.ENC, static.MAC, err = q.cardKeys(h, derive.StaticCBC); err != nil {
		return false, nil, err
	}
	session, err := scp02.SessionKeys(static, q.old.Counter)
	if err != nil {
		return false, nil, err
	}
	defer t.Release(append(session.Keys(), static.ENC, static.MAC)...)
	cryptogram, err := verified(scp02.VerifyCard(ctx, t, session, q.host, q.old))
	if err != nil || !cryptogram {
		return false, nil, err
	}
	return then(t, session)
}

// tryLegacy is try for SCP02, where only a pseudo-random challenge, a MAC over the AID,
// says something of K-MAC.
func (q gpQuestion) tryLegacy(ctx context.Context, s *Service, h hypothesis) (cryptogram bool, words []string, err error) {
	return q.underLegacy(ctx, s, h, func(t derive.TDEAToken, k scp02.Session) (bool, []string, error) {
		return q.challengeLegacy(ctx, t, k, h)
	})
}

// challengeLegacy says what is wrong with the challenge of a card of SCP02 whose
// cryptogram verified.
func (q gpQuestion) challengeLegacy(ctx context.Context, t derive.TDEAToken, k scp02.Session, h hypothesis) (found bool, words []string, err error) {
	pseudo, err := q.pseudoRandom(ctx, t, k)
	if err != nil {
		return false, nil, err
	}
	expected := q.profile.I&scp02.IPseudo != 0
	switch {
	case pseudo && !expected:
		return true, append(q.differences(h), "i:pseudo-random"), nil
	case pseudo:
		return true, q.differences(h), nil
	case expected && h.mac != lastMAC(h.enc): // another K-MAC may explain the challenge
		return false, nil, nil
	case expected:
		return true, append(q.encOnly(h), otherChallenge), nil
	}
	return true, q.encOnly(h), nil
}

// lastMAC is the K-MAC of the last order of keys with a K-ENC: when it fails too, no
// K-MAC explains the challenge.
func lastMAC(enc diversify.Purpose) (mac diversify.Purpose) {
	for _, o := range keyOrders {
		if o[0] == enc {
			mac = o[1]
		}
	}
	return mac
}

// encOnly is differences where nothing is known of K-MAC.
func (q gpQuestion) encOnly(h hypothesis) []string {
	h.mac = diversify.MAC
	out := q.differences(h)
	if h.enc != diversify.ENC {
		out[len(out)-1] = "enc:" + h.enc.String()
	}
	return out
}

// pseudoRandom reports whether the challenge is the MAC over the profile's AID.
func (q gpQuestion) pseudoRandom(ctx context.Context, t derive.TDEAToken, k scp02.Session) (bool, error) {
	if len(q.profile.AID) == 0 {
		return false, nil
	}
	return verified(scp02.VerifyChallenge(ctx, t, k, q.old, q.profile.AID))
}
