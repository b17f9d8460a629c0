package kms

import (
	"context"
	"fmt"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// What SCP02 needs beside its exception, because the protocol does not give it:
//
//   - The sequence counter gives the session keys, and a card raises it only when it took
//     EXTERNAL AUTHENTICATE. So a counter may come twice, as that command may be lost;
//     but one channel alone secures commands under it, beside a prepared script that does
//     not encrypt.
//   - Whoever can spoil encrypted commands and see the card refuse them reads a secret
//     that is sent again and again ([AF] Avoine and Ferreira, TCHES 2018(2), 149-170). So
//     a card whose sessions are aborted waits, and after a few in a row goes into
//     quarantine.

const (
	// repeatsMax is how often a sequence counter of SCP02 may come again.
	repeatsMax = 1
	// AbortedMax is how many aborted sessions in a row, of those that encrypt commands,
	// put a card into quarantine.
	AbortedMax = 3
	// backOff is how long a card waits after an aborted session began; each further one
	// doubles it. So whoever needs many of them needs time.
	backOff = 5 * time.Second
	// counterAlarm is when the end of a counter of two bytes, FFFF, is near: 80 % of its
	// way.
	counterAlarm = 0xFFFF / 5 * 4
)

// SCP02 is what the service remembers of a card's sessions under one key version.
type SCP02 struct {
	// Taken: a channel secured commands under the counter that Card.Counters has.
	Taken bool `json:"taken,omitempty"`
	// Repeats is how often that counter came again.
	Repeats int `json:"repeats,omitempty"`
	// Aborted counts sessions in a row that encrypted commands and were not ended in
	// order. A session counts from its first command on, so that a process that dies does
	// not forget it.
	Aborted int `json:"aborted,omitempty"`
	// Since is when the last of them began.
	Since time.Time `json:"since,omitzero"`
}

// waits reports whether the card is to wait after an aborted session.
func (u SCP02) waits(now time.Time) bool {
	return u.Aborted > 0 && now.Before(u.Since.Add(backOff<<(u.Aborted-1)))
}

// again books a proof of SCP02, whose counter the card cryptogram covers.
func (c *Card) again(t attempt, now time.Time) error {
	highest, counted := c.Counters[t.version]
	u := c.SCP02[t.version]
	switch {
	case u.Aborted >= AbortedMax:
		c.Quarantined = true
		return fault.New(fault.CardQuarantined, "too many sessions of the card were aborted; it is in quarantine")
	case u.waits(now):
		return fault.New(fault.RateLimited, "a session of the card was aborted; the card has to wait some seconds")
	case !counted || t.answer.Counter > highest:
		u.Taken, u.Repeats = false, 0
	case t.answer.Counter < highest || u.Taken:
		return errCounter
	case u.Repeats >= repeatsMax:
		c.Quarantined = true
		return errCounter
	default:
		u.Repeats++
	}
	c.setSCP02(t.version, u)
	return nil
}

func (c *Card) setSCP02(version string, u SCP02) {
	c.SCP02 = with(c.SCP02, version, u)
}

// released gives a card that officers let out of quarantine its tries again. A counter
// that a channel took stays taken.
func (c *Card) released() {
	c.Quarantined, c.Failures = false, 0
	for version, u := range c.SCP02 {
		c.setSCP02(version, SCP02{Taken: u.Taken})
	}
}

// proveSCP02 has the channel verify a card of SCP02.
func (s *Service) proveSCP02(ctx context.Context, o *openChannel, v key.Version, kdd []byte, l scp03.Level) (apdu.Command, error) {
	t, ok := s.cfg.Token.(derive.TDEAToken)
	if !ok {
		return apdu.Command{}, errNoRetail
	}
	static, err := cardkey.SCP02(v, kdd)
	if err != nil {
		return apdu.Command{}, err
	}
	return o.ch.AuthenticateSCP02(ctx, t, static, l, s.cfg.Now())
}

var errNoRetail = fault.New(fault.TokenUnable, "the token computes no retail MAC")

// counterEnds tells of a counter that nears its end, after which the card needs other
// keys.
func (s *Service) counterEnds(e *event, o *openChannel, counter uint32) {
	if o.profile.Legacy() && counter >= counterAlarm {
		e.detail["counter"] = "ending"
		e.detail["left"] = fmt.Sprint(scp02.CounterMax - counter)
		s.cfg.Logger.Warn("the SCP02 sequence counter of a card nears its end", "key", o.version, "left", scp02.CounterMax-counter)
	}
}

// taking returns the change by which a channel of SCP02 takes its counter for itself, in
// the transaction without which its first commands do not leave; nil where there is
// nothing to take. A refusal becomes the event's outcome.
func (o *openChannel) taking(e *event, now time.Time) func(store.Rows) error {
	if !o.profile.Legacy() || o.taken {
		return nil
	}
	return onRow(o.card, func(c *Card, _ store.Rows) error {
		e.outcome = o.take(c, now)
		return nil
	})
}

// take books the first commands of a channel of SCP02.
func (o *openChannel) take(c *Card, now time.Time) error {
	if !o.profile.Legacy() || o.taken {
		return nil
	}
	u := c.SCP02[o.version]
	if u.Taken || c.Counters[o.version] != o.ch.Card().Counter {
		return errCounter
	}
	u.Taken = true
	if o.encrypts() {
		u.Aborted, u.Since = u.Aborted+1, now
	}
	c.setSCP02(o.version, u)
	return nil
}

func (o *openChannel) encrypts() bool { return o.ch.Level()&scp03.CDecryption != 0 }

// ending returns the change by which a channel of SCP02 that was not aborted ends; nil
// for others.
func (o *openChannel) ending() func(store.Rows) error {
	if !o.profile.Legacy() || !o.taken || !o.encrypts() || o.spoilt || !o.ch.Authenticated() || o.ch.Pending() > 0 {
		return nil
	}
	counter := o.ch.Card().Counter
	return onRow(o.card, func(c *Card, _ store.Rows) error {
		if u := c.SCP02[o.version]; c.Counters[o.version] == counter {
			u.Aborted, u.Since = 0, time.Time{}
			c.setSCP02(o.version, u)
		}
		return nil
	})
}

// spoils reports whether a card answers so to a command whose protection does not verify:
// [ISO 7816-4], Section 5.6, security status and secure messaging objects.
func spoils(r apdu.Response) bool { return r.SW == 0x6982 || r.SW == 0x6987 || r.SW == 0x6988 }
