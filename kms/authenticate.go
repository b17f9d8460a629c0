package kms

import (
	"context"
	"fmt"
	"reflect"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// AuthenticateInput is the card's answer to INITIALIZE UPDATE, or to the last command of SCP11.
type AuthenticateInput struct {
	Issuer, Channel string
	Response        []byte       // R-APDU
	Level           *scp03.Level // nil: the profile's
}

// AuthenticatedChannel is a channel whose card is proved.
type AuthenticatedChannel struct {
	ExternalAuthenticate []byte // C-APDU to send to the card; nil under SCP11, whose card waits for none
	KDD                  []byte
	KVN, I               byte
	Counter              *uint32
	Level                scp03.Level
	DataMax              int    // data bytes that one command can carry
	KeyVersion           string // resource name
}

// Authenticate verifies the card and returns EXTERNAL AUTHENTICATE. Three wrong
// card cryptograms or receipts in a row, or as many as the profile says, quarantine the card. Whatever fails ends the channel;
// an unknown Key Version Number and a wrong cryptogram look the same.
func (s *Service) Authenticate(ctx context.Context, r Request, in AuthenticateInput) (out AuthenticatedChannel, err error) {
	e, err := s.start(ctx, r, ChannelAuthenticate, in.Issuer, "channels/"+in.Channel)
	if err != nil {
		return out, err
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return out, err
	}
	defer o.mu.Unlock()
	response, err := apdu.ParseResponse(in.Response)
	if err != nil {
		return out, err // the challenge is not used up by what cannot be an answer
	}
	answer, err := o.ch.Answer(response, s.cfg.Now())
	if e.card, e.key = answer.KDD, o.version; e.card == nil {
		e.card = o.kdd
	}
	if err != nil && fault.CodeOf(err) != fault.ProofFailed {
		if fault.CodeOf(err) != fault.ChannelState {
			s.end(o)
		}
		return out, s.refuse(ctx, e, err)
	}
	wrongKVN := err
	if !r.Caller.Cards.Holds(answer.KDD) {
		s.end(o)
		return out, s.refuse(ctx, e, errRange)
	}
	if wrongKVN != nil {
		s.end(o)
		_, err := s.book(ctx, &e, attempt{answer: answer, most: o.profile.Attempts, err: wrongKVN})
		return out, err
	}
	level := o.profile.Level
	if in.Level != nil {
		level = *in.Level
	}
	cmd, proof := s.prove(ctx, o, answer, level)
	e.key, e.algorithm = o.version, o.algorithm
	e.detail = map[string]string{"kvn": fmt.Sprintf("%02X", answer.KVN), "level": fmt.Sprintf("%02X", byte(level))}
	legacy := o.profile.Legacy()
	counts := legacy || answer.CounterIncluded && len(o.profile.AID) > 0
	if proof == nil {
		s.counterEnds(&e, o, answer.Counter)
	}
	o.card, err = s.book(ctx, &e, attempt{answer: answer, version: o.version, counts: counts, legacy: legacy, agreed: o.profile.Agreed(), most: o.profile.Attempts, err: proof})
	if err != nil {
		s.end(o)
		return out, err
	}
	o.alias = e.alias
	out = AuthenticatedChannel{
		KDD: answer.KDD, KVN: answer.KVN, I: answer.I,
		Level: level, DataMax: o.ch.DataMax(o.profile.Extended), KeyVersion: o.version,
	}
	if !o.profile.Agreed() {
		out.ExternalAuthenticate = cmd.Bytes()
	}
	if answer.CounterIncluded {
		out.Counter = &answer.Counter
	}
	return out, nil
}

var errRange = fault.New(fault.Forbidden, "this card is not in your card range")

// prove finds the card's keys and has the channel verify the card.
func (s *Service) prove(ctx context.Context, o *openChannel, a scp03.Answer, l scp03.Level) (apdu.Command, error) {
	if o.profile.Agreed() {
		return apdu.Command{}, s.proveSCP11(ctx, o, l)
	}
	if err := o.profile.AnsweredBy(a); err != nil {
		return apdu.Command{}, err
	}
	v, err := s.version(ctx, o.issuer, o.key, o.profile.Usage(), a.KVN, key.Move)
	if fault.CodeOf(err) == fault.NotFound {
		return apdu.Command{}, fault.Proof()
	}
	if v.ID.Version > 0 {
		o.version, o.algorithm = v.ID.String(), algorithmOf(v)
	}
	if err == nil {
		err = o.profile.Agrees(v)
	}
	if err != nil {
		return apdu.Command{}, err
	}
	if o.profile.Legacy() {
		return s.proveSCP02(ctx, o, v, a.KDD, l)
	}
	static, err := cardkey.SCP03(v, a.KDD)
	if err != nil {
		return apdu.Command{}, err
	}
	return o.ch.Authenticate(ctx, s.cfg.Token, static, l, s.cfg.Now())
}

// book writes the result of a proof into the card's row, together with its
// entry, and returns the row's name.
func (s *Service) book(ctx context.Context, e *event, t attempt) (store.Ref, error) {
	ref, err := s.cardRef(ctx, e.issuer, t.answer.KDD)
	if err != nil {
		return ref, err
	}
	sealed, err := s.sealCard(ctx, ref, t.answer.KDD)
	if err != nil {
		return ref, err
	}
	now := s.cfg.Now().UTC()
	return ref, s.log(ctx, e, func(tx store.Rows) error {
		c := Card{Issuer: e.issuer, Sealed: sealed}
		n, err := get(tx, ref, &c)
		if err != nil {
			return err
		}
		before := c
		if e.outcome = c.proved(t, now); e.outcome == nil {
			if c.SCP02[t.version].Repeats > 0 {
				e.detail["repeated"] = "true"
			}
			if err := c.settle(tx, t, now); err != nil {
				return err
			}
		}
		e.quarantined = c.Quarantined && !before.Quarantined
		if reflect.DeepEqual(c, before) {
			return nil
		}
		c.Nonce = newID()
		return put(tx, ref, n, c)
	})
}
