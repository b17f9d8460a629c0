package kms

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"cardkms/audit"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// OpenChannelInput says which card keys to use.
type OpenChannelInput struct {
	Issuer  string
	Key     string // name of a key of the usage that the profile says; empty under scp11b
	KVN     byte   // 00: the card's default, or the first of a profile of SCP11
	Profile string // name of a card profile; empty for "default"
	// Certificates are those of a card of SCP11 in DER, its own first; none of others.
	Certificates [][]byte
}

// OpenedChannel is a channel with what to send to the card.
type OpenedChannel struct {
	ID               string
	InitializeUpdate []byte
	// Agreement, in its place under SCP11, are the host's certificates and then the command
	// whose answer counts, and KDD the card's name by its certificate.
	Agreement [][]byte
	KDD       []byte
	ExpiresAt time.Time // for the card's answer
}

// OpenChannel starts a channel with a host challenge of the token, or with a pair that it
// makes.
func (s *Service) OpenChannel(ctx context.Context, r Request, in OpenChannelInput) (out OpenedChannel, err error) {
	object := "keys/" + in.Key
	if in.Key == "" { // scp11b
		object = "profiles/" + cmp.Or(in.Profile, defaultProfile)
	}
	e, err := s.start(ctx, r, ChannelOpen, in.Issuer, object)
	if err != nil {
		return out, err
	}
	if in.Key == "" && len(in.Certificates) == 0 {
		return out, fault.New(fault.InvalidInput, "a channel needs a key, or the certificates of a card of SCP11b")
	}
	p, err := s.profile(ctx, in.Issuer, in.Profile)
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	if p.Legacy() {
		e.algorithm = audit.Legacy // which key it will be, the card says
	}
	o, commands, err := s.opening(ctx, r, in, p)
	if o != nil {
		e.card = o.kdd
	}
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	// In INITIALIZE UPDATE and in the command of SCP11, P1 is the Key Version Number.
	e.object, e.key, e.detail = o.object(), o.version, map[string]string{"kvn": fmt.Sprintf("%02X", commands[len(commands)-1].P1)}
	p.named(e.detail)
	e.digest = p.digest
	if err := s.channels.add(o, r.Caller.ChannelsMax); err != nil {
		o.ch.Close(s.cfg.Token)
		return out, s.refuse(ctx, e, err)
	}
	if err := s.log(ctx, &e, nil); err != nil {
		o.mu.Lock() // the process may be closing all channels
		s.end(o)
		o.mu.Unlock()
		return out, err
	}
	out = OpenedChannel{ID: o.id, KDD: o.kdd, ExpiresAt: s.cfg.Now().Add(s.cfg.Limits.AnswerWithin)}
	if p.Agreed() {
		out.Agreement = encode(commands)
	} else {
		out.InitializeUpdate = commands[0].Bytes()
	}
	return out, nil
}

// opening makes a channel of the profile's protocol, and the commands for the card. Of a card
// that is known when it is refused, the channel says which.
func (s *Service) opening(ctx context.Context, r Request, in OpenChannelInput, p cardProfile) (*openChannel, []apdu.Command, error) {
	switch {
	case p.Agreed():
		return s.newChannelSCP11(ctx, r, in, p)
	case len(in.Certificates) > 0:
		return nil, nil, fault.New(fault.InvalidInput, "certificates are of cards of SCP11, and the card profile says another protocol")
	}
	o, cmd, err := s.newChannel(ctx, r, in, p)
	return o, []apdu.Command{cmd}, err
}

func (s *Service) newChannel(ctx context.Context, r Request, in OpenChannelInput, p cardProfile) (*openChannel, apdu.Command, error) {
	if p.Implicit() {
		return nil, apdu.Command{}, fault.New(fault.InvalidInput, "cards of i 1A prove nothing before they obey, so they get prepared scripts and no channel")
	}
	if err := s.opens(ctx, in.Issuer, in.Key, p.Profile); err != nil {
		return nil, apdu.Command{}, err
	}
	if in.KVN != 0 {
		v, err := s.version(ctx, in.Issuer, in.Key, p.Usage(), in.KVN, key.Move)
		if err == nil {
			err = p.Agrees(v)
		}
		if err != nil {
			return nil, apdu.Command{}, err
		}
	}
	challenge, err := s.cfg.Token.Random(ctx, int(p.Mode))
	if err != nil {
		return nil, apdu.Command{}, err
	}
	o := &openChannel{id: s.newChannelID(), caller: r.Caller.ID, issuer: in.Issuer, key: in.Key, profile: p}
	var cmd apdu.Command
	o.ch, cmd = channel.Open(p.Profile.Profile, s.cfg.Limits, in.KVN, challenge, s.cfg.Now())
	return o, cmd, nil
}
