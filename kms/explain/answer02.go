package explain

import (
	"context"

	"cardkms/derive"
	"cardkms/derive/scp02"
)

// try02 is try03 for SCP02, where only a pseudo-random challenge, a MAC over the AID,
// says something of K-MAC.
func (q answer) try02(ctx context.Context, t derive.Token, h hypothesis) (cryptogram bool, words []string, err error) {
	return q.under02(ctx, t, h, func(t derive.TDEAToken, k scp02.Session) (bool, []string, error) {
		return q.challenge02(ctx, t, k, h)
	})
}

// under02 reports whether a hypothesis explains the card cryptogram of SCP02, and what
// then says of its keys: whether it may be the right one, in further words. The cryptogram
// is of S-ENC alone and says nothing of K-MAC.
func (q answer) under02(ctx context.Context, token derive.Token, h hypothesis, then func(derive.TDEAToken, scp02.Session) (bool, []string, error)) (found bool, words []string, err error) {
	t, err := tdea(token)
	if err != nil {
		return false, nil, err
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

// challenge02 says what is wrong with the challenge of a card of SCP02 whose
// cryptogram verified.
func (q answer) challenge02(ctx context.Context, t derive.TDEAToken, k scp02.Session, h hypothesis) (found bool, words []string, err error) {
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

// pseudoRandom reports whether the challenge is the MAC over the profile's AID.
func (q answer) pseudoRandom(ctx context.Context, t derive.TDEAToken, k scp02.Session) (bool, error) {
	if len(q.profile.AID) == 0 {
		return false, nil
	}
	return verified(scp02.VerifyChallenge(ctx, t, k, q.old, q.profile.AID))
}
