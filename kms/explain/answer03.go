package explain

import (
	"context"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/fault"
)

// try03 reports what of an answer a hypothesis explains: the cryptogram, and the
// challenge where it is pseudo-random.
func (q answer) try03(ctx context.Context, t derive.Token, h hypothesis) (cryptogram bool, words []string, err error) {
	return q.under03(ctx, t, h, func(static scp03.Static, _ scp03.Session) ([]string, error) {
		if !q.said.CounterIncluded {
			return nil, nil
		}
		word, err := q.challenge03(ctx, t, static)
		if fault.CodeOf(err) == fault.TokenUnable {
			word, err = notChecked, nil
		}
		if word == "" {
			return nil, err
		}
		return []string{word}, err
	})
}

// under03 reports whether a hypothesis explains the card cryptogram, and what then says of
// its keys, in further words.
func (q answer) under03(ctx context.Context, t derive.Token, h hypothesis, then func(scp03.Static, scp03.Session) ([]string, error)) (cryptogram bool, words []string, err error) {
	var static scp03.Static
	if static.ENC, static.MAC, err = q.cardKeys(h, derive.Static); err != nil {
		return false, nil, err
	}
	session := scp03.SessionKeys(static, q.host, q.said.CardChallenge)
	defer t.Release(session.ENC, session.MAC, session.RMAC, static.ENC, static.MAC)
	cryptogram, err = verified(scp03.VerifyCard(ctx, t, session, q.host, q.said))
	if err != nil || !cryptogram {
		return false, nil, err
	}
	more, err := then(static, session)
	return true, append(q.differences(h), more...), err
}

// challenge03 says what is wrong with the pseudo-random challenge of a card whose
// cryptogram verified: whether another counter or an AID less would explain it.
func (q answer) challenge03(ctx context.Context, t derive.Token, st scp03.Static) (string, error) {
	if len(q.profile.AID) == 0 {
		return "aid:missing-in-profile", nil
	}
	for _, c := range []struct {
		word  string
		delta int
	}{{"", 0}, {"counter:one-more", 1}, {"counter:one-less", -1}} {
		a := q.said
		a.Counter = uint32(int(a.Counter)+c.delta) & scp03.CounterMax
		ok, err := verified(scp03.VerifyChallenge(ctx, t, st.ENC, a, q.profile.AID))
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
