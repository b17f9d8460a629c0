package profile

import (
	"context"
	"crypto/ecdh"
	"slices"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/key"
)

// known is a token whose ephemeral pair is that of a known answer.
type known struct {
	channel.Token
	pair   *derive.Key
	public *ecdh.PublicKey
}

// Ephemeral implements derive.Agreer.
func (k known) Ephemeral(context.Context, string) (*derive.Key, *ecdh.PublicKey, error) {
	return k.pair, k.public, nil
}

// addPair imports the private half of a test pair.
func (b *bench) addPair(scalar []byte) (*derive.Key, *ecdh.PublicKey, error) {
	private, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		return nil, nil, err
	}
	public := private.PublicKey()
	if slices.Contains(b.used, derive.PairKCV(public)) {
		return nil, nil, errUsed
	}
	k, forget, err := b.token.ImportVolatile(b.ctx, "cardkms-known-answer", key.ECP256, derive.Agreeing, scalar)
	if err == nil {
		b.cleanup = append(b.cleanup, forget)
	}
	return k, public, err
}

// agreement runs the session of an answer of SCP11 on a channel as cards get it.
func (b *bench) agreement(a Agreement) error {
	t, now := known{Token: b.token}, time.Time{}
	peer := channel.Peer{KDD: scp11.KDD(a.Card), KVN: a.Authenticate.P1, Public: a.Card}
	var err error
	if t.pair, t.public, err = b.addPair(a.Ephemeral); err == nil && a.Static != nil {
		peer.Static, _, err = b.addPair(a.Static)
	}
	if err != nil {
		return err
	}
	ch, cmd, err := channel.OpenSCP11(b.ctx, t, b.profile.Profile, channel.DefaultLimits(), peer, now)
	if err != nil {
		return err
	}
	b.channel = ch
	b.cleanup = append(b.cleanup, func() { ch.Close(t) })
	if !same(cmd, a.Authenticate) {
		return another("the command of the authentication")
	}
	if _, err := ch.Answer(apdu.Response{Data: a.Answer, SW: apdu.Success}, now); err != nil {
		return err
	}
	if err := ch.AuthenticateSCP11(b.ctx, t, b.profile.Level, now); err != nil {
		return err
	}
	return b.commands(a.Commands)
}
