package channel

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Token is what a channel of SCP11 needs of a token.
type Token interface {
	derive.Token
	derive.Agreer
}

// Peer is a card of SCP11, as its certificate has it, and what the host answers it with.
type Peer struct {
	KDD    []byte // scp11.KDD of Public
	KVN    byte   // of the card's pair
	Public *ecdh.PublicKey
	// Static is the host's own pair, nil in SCP11b.
	Static *derive.Key
	// Token names the token of Static, or the one that is to hold the ephemeral pair.
	Token string
}

// agreement is a channel of SCP11 until it is authenticated.
type agreement struct {
	peer      Peer
	ephemeral *derive.Key
	sent      apdu.Command
	answer    scp11.Answer
}

// OpenSCP11 starts a channel with a pair that the token makes for it, and returns the command
// that the card answers, for a profile that says SCP11. As a host challenge is, the pair is
// used for one answer; it is destroyed with it, or with the channel.
func OpenSCP11(ctx context.Context, t Token, p Profile, l Limits, peer Peer, now time.Time) (*Channel, apdu.Command, error) {
	ephemeral, public, err := t.Ephemeral(ctx, peer.Token)
	if err != nil {
		return nil, apdu.Command{}, err
	}
	cmd := p.SCP11.Authenticate(peer.KVN, public)
	c := &Channel{profile: p, limits: l, openedAt: now, usedAt: now, kvn: peer.KVN, token: t}
	c.agreement = &agreement{peer: peer, ephemeral: ephemeral, sent: cmd}
	return c, cmd, nil
}

// parse reads the card's answer. What SCP11 says fits the terms of SCP03: its card is named
// by a certificate, and has no challenge and no counter.
func (a *agreement) parse(b []byte) (out scp03.Answer, err error) {
	if a.answer, err = scp11.ParseAnswer(b); err != nil {
		return out, err
	}
	return scp03.Answer{KDD: bytes.Clone(a.peer.KDD), KVN: a.peer.KVN}, nil
}

// AuthenticateSCP11 verifies the receipt of the card, which is all that is left to do: the
// command that the card answered opened its end of the session. Any failure closes the
// channel and releases its keys.
func (c *Channel) AuthenticateSCP11(ctx context.Context, t Token, l scp03.Level, now time.Time) error {
	if err := c.alive(answered, now); err != nil {
		return err
	}
	c.phase = closed
	if c.agreement == nil || l != scp11.Level {
		return fault.New(fault.InvalidInput, "a channel of SCP11 has security level 33")
	}
	a := c.agreement
	z, err := scp11.Host{Ephemeral: a.ephemeral, Static: a.peer.Static}.Secret(ctx, t, a.peer.Public, a.answer)
	t.Release(a.ephemeral)
	if err != nil {
		return err
	}
	receipt, keys := scp11.Keys(z)
	to := session03{agreed: z, Messaging: &scp03.Messaging{Token: t, Keys: keys, Level: l, Mode: scp03.S8, Options: c.profile.Options}}
	to.state, err = scp11.Verify(ctx, t, receipt, a.sent, a.answer)
	t.Release(receipt)
	_, err = c.enter(t, to, l, apdu.Command{}, err)
	return err
}
