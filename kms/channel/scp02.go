package channel

import (
	"context"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// AuthenticateSCP02 is Authenticate for a card whose profile says SCP02. Whether such a
// card may be served at all is its caller's to decide.
func (c *Channel) AuthenticateSCP02(ctx context.Context, t derive.TDEAToken, s scp02.Static, l scp03.Level, now time.Time) (apdu.Command, error) {
	if err := c.alive(answered, now); err != nil {
		return apdu.Command{}, err
	}
	c.phase = closed
	i := c.profile.SCP02
	if !scp02.ValidLevel(scp02.Level(l), i) {
		return apdu.Command{}, fault.New(fault.InvalidInput, "the card's i parameter does not allow this security level")
	}
	keys, err := scp02.SessionKeys(s, uint16(c.answer.Counter))
	if err != nil {
		return apdu.Command{}, err
	}
	to := session02{static: s, Messaging: &scp02.Messaging{Token: t, Keys: keys, Level: scp02.Level(l), I: i, Options: scp02.Options{PadEmpty: c.profile.PadEmpty}}}
	cmd, err := c.proveSCP02(ctx, t, &to)
	t.Release(s.ENC, s.MAC, s.DEK)
	return c.enter(t, to, l, cmd, err)
}

// proveSCP02 verifies first and only then makes what proves the host.
func (c *Channel) proveSCP02(ctx context.Context, t derive.TDEAToken, to *session02) (cmd apdu.Command, err error) {
	a := scp02.Answer{
		KDD: c.answer.KDD, KVN: c.answer.KVN, Counter: uint16(c.answer.Counter),
		CardChallenge: c.answer.CardChallenge, CardCryptogram: c.answer.CardCryptogram,
	}
	if err := scp02.VerifyCard(ctx, t, to.Keys, c.hostChallenge, a); err != nil {
		return cmd, err
	}
	if to.I&scp02.IPseudo != 0 && len(c.profile.AID) > 0 {
		if err := scp02.VerifyChallenge(ctx, t, to.Keys, a, c.profile.AID); err != nil {
			return cmd, err
		}
	}
	cmd, to.state, err = to.ExternalAuthenticate(ctx, c.hostChallenge, a)
	to.responses = to.state.Responses()
	return cmd, err
}

// KeyBlock returns one key data field of PUT KEY under the DEK of a session of SCP02.
func (c *Channel) KeyBlock(ctx context.Context, w derive.Wrapper, k *derive.Key) ([]byte, error) {
	s, ok := c.session.(session02)
	if !ok {
		return nil, fault.New(fault.ChannelState, "the channel is no session of SCP02")
	}
	return s.KeyBlock(ctx, w, k)
}

// session02 is a session of SCP02: commands chain from commands, and responses, which
// also cover the plain command, from responses.
type session02 struct {
	*scp02.Messaging
	static    scp02.Static
	state     scp02.State
	responses scp02.Responses
}

func (s session02) covered(c apdu.Command) apdu.Command {
	if s.Level&scp02.RMAC == 0 {
		return headerOf(c)
	}
	return c
}

func (s session02) wrap(ctx context.Context, c apdu.Command) (w apdu.Command, next session, err error) {
	w, s.state, err = s.Wrap(ctx, s.state, c)
	return w, s, err
}

func (s session02) unwrap(ctx context.Context, of sent, r apdu.Response) (u apdu.Response, next session, err error) {
	u, s.responses, err = s.Unwrap(ctx, s.responses, of.plain, r)
	return u, s, err
}

func (s session02) dataMax(bool) int { return s.DataMax() }

// keys has the card keys too: a session key that is first used late, as S-RMAC is,
// brings them back into the token.
func (s session02) keys() []*derive.Key {
	return append(s.Keys.Keys(), s.static.ENC, s.static.MAC, s.static.DEK)
}
