// Package channel is the Secure Channel Session as a state machine.
//
//	Opened ──Answer──▶ Answered ──Authenticate──▶ Authenticated ──Wrap, Unwrap──▶ …
//	   └───────────────────┴────────── any failure, Close, life time ──▶ Closed
//
// It knows counters, chaining values and what may follow what, which is the same for
// SCP03, for SCP02 with explicit initiation and for SCP11; how a MAC is computed is
// derive/scp03's and derive/scp02's, who asks is the service's. A host challenge is used
// for one answer and no longer than AnswerWithin, and so is the ephemeral pair of SCP11;
// nothing that lets anybody authenticate to the card exists before the card cryptogram
// verified. In SCP11 the host is proved, where it is, by its certificate and by an
// agreement with the card's own key: only the card that has that key learns of it. A failed
// proof closes the channel. Input that is malformed leaves it as it was, because
// nothing was sent: the counter and the chaining value move only with commands
// that are returned.
//
// A Channel is not safe for concurrent use, because a session is strictly
// sequential; its owner serialises. Time is passed in.
package channel

import (
	"bytes"
	"context"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Profile is what a card product needs to know of its Secure Channel Protocol,
// where real cards differ.
type Profile struct {
	Mode scp03.Mode // S8 unless the product uses 16-byte challenges and MACs
	// AID of the Security Domain, 5 to 16 bytes. With it, a pseudo-random card
	// challenge is checked; without it, it is taken as random.
	AID []byte
	// SCP02 is the "i" parameter of a card that speaks SCP02, which its answer does not
	// say; 00 is a card that speaks SCP03. Of the options only PadEmpty is of SCP02.
	SCP02 byte
	// SCP11 is the variant of SCP11 that the card speaks; 0 for none. Mode is S8.
	SCP11 scp11.Variant
	scp03.Options
}

// Limits bound a channel's life.
type Limits struct {
	AnswerWithin time.Duration // from opening to the card's answer; at most a minute
	Idle         time.Duration // between two uses
	Absolute     time.Duration // from opening
	PendingMax   int           // commands whose responses are still out
}

// DefaultLimits returns the limits that a configuration may only tighten.
func DefaultLimits() Limits {
	return Limits{AnswerWithin: time.Minute, Idle: 5 * time.Minute, Absolute: time.Hour, PendingMax: 8192}
}

type phase int

const (
	opened phase = iota
	answered
	authenticated
	closed
)

// Channel is one Secure Channel Session, seen from the host.
type Channel struct {
	profile       Profile
	limits        Limits
	phase         phase
	openedAt      time.Time
	usedAt        time.Time
	kvn           byte
	hostChallenge []byte
	agreement     *agreement // of SCP11, in the place of hostChallenge; nil for others
	answer        scp03.Answer
	level         scp03.Level
	token         derive.Token // that has the session's keys, or the pair of agreement
	session       session      // nil until authenticated
	pending       []sent       // commands whose responses are still out, oldest first
}

// Open starts a channel with a host challenge that the token made, and returns
// INITIALIZE UPDATE for the keys of version kvn (00: the card's default).
func Open(p Profile, l Limits, kvn byte, hostChallenge []byte, now time.Time) (*Channel, apdu.Command) {
	c := &Channel{profile: p, limits: l, openedAt: now, usedAt: now, kvn: kvn, hostChallenge: bytes.Clone(hostChallenge)}
	return c, scp03.InitializeUpdate(kvn, c.hostChallenge)
}

// ended reports whether the channel is closed or over one of its life times. A
// clock that was set back to before the opening ends it, because its life times
// cannot be told any more; one that was set back less does not make it younger.
func (c *Channel) ended(now time.Time) bool {
	if c.phase == closed || now.Before(c.openedAt) {
		return true
	}
	if now.Before(c.usedAt) {
		now = c.usedAt
	}
	return now.Sub(c.openedAt) > c.limits.Absolute || now.Sub(c.usedAt) > c.limits.Idle ||
		(c.phase == opened && now.Sub(c.openedAt) > c.limits.AnswerWithin)
}

// alive refuses a channel that ended or is not in the phase that an operation
// needs. What it does not refuse counts as a use.
func (c *Channel) alive(want phase, now time.Time) error {
	switch {
	case c.ended(now):
		c.end()
		return fault.New(fault.ChannelClosed, "the channel has ended; open a new one")
	case c.phase != want:
		return fault.New(fault.ChannelState, "the channel is not at this step")
	}
	if now.After(c.usedAt) {
		c.usedAt = now
	}
	return nil
}

// end closes the channel and releases its session keys, if it has any.
func (c *Channel) end() { c.Close(c.token) }

// Expired reports whether the channel ended, so that its owner can forget it. To
// ask is not a use: a channel that is only swept becomes idle.
func (c *Channel) Expired(now time.Time) bool { return c.ended(now) }

// Answer takes the card's answer to INITIALIZE UPDATE, or to the command of OpenSCP11, and
// uses the host challenge, or the pair, up: whatever it returns, no other answer is accepted. An answer for
// another KVN than was asked for is a failed proof.
func (c *Channel) Answer(r apdu.Response, now time.Time) (scp03.Answer, error) {
	if err := c.alive(opened, now); err != nil {
		return scp03.Answer{}, err
	}
	c.phase = closed
	if r.SW != apdu.Success {
		return scp03.Answer{}, fault.New(fault.CardRefused, "the card answered the opening of the channel with "+r.SW.String())
	}
	a, err := c.parse(r.Data)
	if err != nil {
		return scp03.Answer{}, err
	}
	if c.kvn != 0 && a.KVN != c.kvn {
		return a, fault.Proof()
	}
	c.answer, c.phase = a, answered
	return a, nil
}

// parse reads the answer of the profile's protocol. What SCP02 says fits the terms of
// SCP03: it has a counter always and the "i" parameter of its profile.
func (c *Channel) parse(b []byte) (scp03.Answer, error) {
	if c.agreement != nil {
		return c.agreement.parse(b)
	}
	if c.profile.SCP02 == 0 {
		return scp03.ParseAnswer(b, c.profile.Mode)
	}
	a, err := scp02.ParseAnswer(b)
	return scp03.Answer{
		KDD: a.KDD, KVN: a.KVN, I: c.profile.SCP02, CardChallenge: a.CardChallenge, CardCryptogram: a.CardCryptogram,
		Counter: uint32(a.Counter), CounterIncluded: err == nil,
	}, err
}

// Authenticate verifies the card and returns EXTERNAL AUTHENTICATE at this
// security level. Any failure closes the channel and releases its keys.
func (c *Channel) Authenticate(ctx context.Context, t derive.Token, s scp03.Static, l scp03.Level, now time.Time) (apdu.Command, error) {
	if err := c.alive(answered, now); err != nil {
		return apdu.Command{}, err
	}
	c.phase = closed
	if c.profile.SCP02 != 0 || c.agreement != nil || !scp03.ValidLevel(l, c.answer.I) {
		return apdu.Command{}, fault.New(fault.InvalidInput, "the card's i parameter does not allow this security level")
	}
	keys := scp03.SessionKeys(s, c.hostChallenge, c.answer.CardChallenge)
	to := session03{Messaging: &scp03.Messaging{Token: t, Keys: keys, Level: l, Mode: c.profile.Mode, Options: c.profile.Options}}
	cmd, err := c.prove(ctx, t, s, &to)
	t.Release(s.ENC, s.MAC)
	return c.enter(t, to, l, cmd, err)
}

// enter ends an authentication: with a session, or with the error and without keys.
func (c *Channel) enter(t derive.Token, to session, l scp03.Level, cmd apdu.Command, err error) (apdu.Command, error) {
	if err != nil {
		t.Release(to.keys()...)
		return apdu.Command{}, err
	}
	c.token, c.session, c.level, c.phase = t, to, l, authenticated
	return cmd, nil
}

// prove verifies first and only then makes what proves the host.
func (c *Channel) prove(ctx context.Context, t derive.Token, s scp03.Static, to *session03) (cmd apdu.Command, err error) {
	if err := scp03.VerifyCard(ctx, t, to.Keys, c.hostChallenge, c.answer); err != nil {
		return cmd, err
	}
	if c.answer.CounterIncluded && len(c.profile.AID) > 0 {
		if err := scp03.VerifyChallenge(ctx, t, s.ENC, c.answer, c.profile.AID); err != nil {
			return cmd, err
		}
	}
	cmd, to.state, err = scp03.ExternalAuthenticate(ctx, t, to.Keys, to.Level, c.hostChallenge, c.answer.CardChallenge)
	return cmd, err
}

// Wrap secures a script, all of it or nothing.
func (c *Channel) Wrap(ctx context.Context, script []apdu.Command, now time.Time) ([]apdu.Command, error) {
	if err := c.alive(authenticated, now); err != nil {
		return nil, err
	}
	if len(c.pending)+len(script) > c.limits.PendingMax {
		return nil, fault.New(fault.TooLarge, "too many commands are out without their responses; unwrap those first")
	}
	at, pending := c.session, c.pending
	out := make([]apdu.Command, len(script))
	for i, cmd := range script {
		w, next, err := at.wrap(ctx, cmd)
		if err != nil {
			return nil, err
		}
		out[i], at = w, next
		pending = append(pending, sent{plain: next.covered(cmd), after: next})
	}
	c.session, c.pending = at, pending
	return out, nil
}

// Unwrap checks and decrypts responses in the order in which their commands were
// wrapped. A response that does not verify closes the channel.
func (c *Channel) Unwrap(ctx context.Context, responses []apdu.Response, now time.Time) ([]apdu.Response, error) {
	if err := c.alive(authenticated, now); err != nil {
		return nil, err
	}
	if len(responses) > len(c.pending) {
		return nil, fault.New(fault.ChannelState, "more responses than commands are out")
	}
	at := c.session
	out := make([]apdu.Response, len(responses))
	for i, r := range responses {
		u, next, err := at.unwrap(ctx, c.pending[i], r)
		if fault.CodeOf(err) == fault.ProofFailed {
			c.end()
		}
		if err != nil {
			return nil, err
		}
		out[i], at = u, next
	}
	c.session, c.pending = at, append(c.pending[:0:0], c.pending[len(responses):]...)
	return out, nil
}

// Answers reports whether the next response belongs to this command without data,
// so that one object cannot be passed off as the answer to another question.
func (c *Channel) Answers(asked apdu.Command) bool {
	return len(c.pending) > 0 && bytes.Equal(c.pending[0].plain.Header(), asked.Header())
}

// Pending returns how many commands are out whose responses were not unwrapped.
func (c *Channel) Pending() int { return len(c.pending) }

// Close ends the channel and destroys its session keys. It may be called twice.
func (c *Channel) Close(t derive.Token) {
	c.phase = closed
	if c.session != nil {
		t.Release(c.session.keys()...)
	}
	if c.agreement != nil {
		t.Release(c.agreement.ephemeral)
	}
}

// Authenticated reports whether the card was verified and the channel is open.
func (c *Channel) Authenticated() bool { return c.phase == authenticated }

// Level returns the security level, meaningful once authenticated.
func (c *Channel) Level() scp03.Level { return c.level }

// Card returns the card's answer, meaningful once authenticated.
func (c *Channel) Card() scp03.Answer { return c.answer }

// Context returns host challenge | card challenge; SCP11 has neither.
func (c *Channel) Context() []byte {
	return append(bytes.Clone(c.hostChallenge), c.answer.CardChallenge...)
}

// DataMax returns how many data bytes one command of this channel can carry.
func (c *Channel) DataMax(extended bool) int {
	if c.session == nil {
		return apdu.Command{Extended: extended}.DataMax()
	}
	return c.session.dataMax(extended)
}
