package kms

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// A card of SCP11 is known by its certificate, before it said anything: whoever opens a
// channel brings the certificate, authorities of the card profile vouch for it, and the
// card's name here follows from its public key. So a caller's card range decides before the
// token makes a pair, and a certificate of another card opens a channel that this card's
// answer does not fit.
//
// No key version of the service proves a card of SCP11: it has no master. The host's own pair
// of SCP11a and c is one, of usage gp-scp11; which one it is follows from the certificate in
// the card profile. Under SCP11b there is none, and the card learns of nobody who he is.

// agreeing returns what the token does for SCP11.
func (s *Service) agreeing() (channel.Token, error) {
	t, ok := s.cfg.Token.(channel.Token)
	if !ok {
		return nil, fault.New(fault.TokenUnable, "the token agrees on no secrets")
	}
	return t, nil
}

// agrees has a token make a pair and give it up: officers sign for none that it could not use.
func (s *Service) agrees(ctx context.Context, token string) error {
	t, err := s.agreeing()
	if err != nil {
		return err
	}
	k, _, err := t.Ephemeral(ctx, token)
	if err == nil {
		t.Release(k)
	}
	return err
}

// newChannelSCP11 is newChannel for a profile of SCP11. It returns the commands for the card.
func (s *Service) newChannelSCP11(ctx context.Context, r Request, in OpenChannelInput, p cardProfile) (*openChannel, []apdu.Command, error) {
	o := &openChannel{id: s.newChannelID(), caller: r.Caller.ID, issuer: in.Issuer, key: in.Key, profile: p, algorithm: audit.Approved}
	peer, err := s.peer(in, p)
	if err != nil {
		return o, nil, err
	}
	if o.kdd = peer.KDD; !r.Caller.Cards.Holds(o.kdd) {
		return o, nil, errRange
	}
	if err := s.proveHost(ctx, o, &peer); err != nil {
		return o, nil, err
	}
	t, err := s.agreeing()
	if err != nil {
		return o, nil, err
	}
	ch, cmd, err := channel.OpenSCP11(ctx, t, p.Profile.Profile, s.cfg.Limits, peer, s.cfg.Now())
	if err != nil {
		return o, nil, err
	}
	o.ch = ch
	var chain [][]byte
	for _, c := range p.Certificates.Host {
		chain = append(chain, c.Raw)
	}
	return o, append(scp11.Certify(p.Certificates.Authority, chain, p.Extended), cmd), nil
}

// peer verifies the certificates of a card.
func (s *Service) peer(in OpenChannelInput, p cardProfile) (out channel.Peer, err error) {
	var chain []*x509.Certificate
	for _, der := range in.Certificates {
		c, err := scp11.ParseCertificate(der)
		if err != nil {
			return out, err
		}
		chain = append(chain, c)
	}
	if out.Public, err = scp11.Card(chain, p.Certificates.Trusted, s.cfg.Now()); err != nil {
		return out, err
	}
	out.KDD, out.KVN = scp11.KDD(out.Public), in.KVN
	if out.KVN == 0 {
		out.KVN = p.Keys.From
	}
	if out.KVN < p.Keys.From || out.KVN > p.Keys.To {
		return out, fault.New(fault.ProfileMismatch, fmt.Sprintf("the Key Version Number %02X is not one that the card profile says", out.KVN))
	}
	return out, nil
}

// proveHost finds the host's own pair of SCP11a and c: the version of the key whose public
// key the last certificate in the profile has.
func (s *Service) proveHost(ctx context.Context, o *openChannel, peer *channel.Peer) error {
	if !o.profile.SCP11.HostProven() {
		if o.key != "" {
			return fault.New(fault.InvalidInput, "scp11b does not prove the host, so it has no key")
		}
		return nil
	}
	if o.key == "" {
		return fault.New(fault.InvalidInput, "scp11a and scp11c prove the host, which needs a key of gp-scp11")
	}
	if err := o.profile.Certificates.HostValid(s.cfg.Now()); err != nil {
		return err
	}
	all, err := s.versions(ctx, o.issuer)
	if err != nil {
		return err
	}
	why := error(fault.New(fault.NotFound, "no such key"))
	want := derive.SubjectPublicKeyInfo(o.profile.Certificates.HostKey())
	for _, v := range all {
		if v.ID.Name != o.key || v.Usage != key.GPSCP11 {
			continue
		}
		if !bytes.Equal(v.PublicKey, want) {
			why = fault.New(fault.ProfileMismatch, "no version of the key has the public key of the host's certificate in the card profile")
			continue
		}
		o.version = v.ID.String()
		peer.Static, peer.Token = derive.FromRoot(cardkey.Root(v, key.Master)), v.Token
		return serves(v, key.Protect, s.cfg.Now())
	}
	return why
}

// proveSCP11 has the channel verify a card of SCP11.
func (s *Service) proveSCP11(ctx context.Context, o *openChannel, l scp03.Level) error {
	t, err := s.agreeing()
	if err == nil {
		err = s.serving(ctx, o, key.Protect)
	}
	if err != nil {
		return err
	}
	return o.ch.AuthenticateSCP11(ctx, t, l, s.cfg.Now())
}

// errAgreed is what channels of SCP11 do not carry.
var errAgreed = fault.New(fault.Conflict, "channels of SCP11 carry neither packages nor keys")
