package kms

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"cardkms/audit"
	"cardkms/derive/scp80"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

const (
	// otaAlarm is when the end of a card's counter is near: 80 % of its way.
	otaAlarm = scp80.CounterMax / 5 * 4
	// otaAwaitedMax is how many responses of one card the service waits for.
	otaAwaitedMax = 8
)

// OTACard names a card that takes secured packets, and its key set.
type OTACard struct {
	Issuer string
	Key    string // name of an ota key
	KVN    byte   // of the key set on the card, 01 to 0F: the number in KIc and KID
	KDD    []byte // what the card's keys are diversified by, 10 bytes: often its ICCID
}

// otaCounters is what the service remembers of one key set of one card. Its row is
// named by a MAC over the card's identifier, which stands nowhere in it.
type otaCounters struct {
	Counter uint64       `json:"counter"`           // the highest that was given away
	Given   otaGiven     `json:"given,omitzero"`    // what the packet of Counter answered
	Awaited []otaAwaited `json:"awaited,omitempty"` // responses, the oldest first
	Seen    time.Time    `json:"seen,omitzero"`     // last successful proof
	Nonce   string       `json:"nonce"`
}

// otaAwaited is a packet whose response is awaited.
type otaAwaited struct {
	Counter uint64    `json:"counter"`
	SPI     scp80.SPI `json:"spi"`
	TAR     [3]byte   `json:"tar"`
}

// otaGiven is the fingerprint of a request that had an Idempotency-Key, and the digest of the
// packet that it got; empty without a key.
type otaGiven struct {
	Request string `json:"request"`
	Packet  string `json:"packet"`
}

// gave books that a packet was given away.
func (c *otaCounters) gave(p otaAwaited, to otaGiven) {
	c.Counter, c.Given = p.Counter, to
	if !p.SPI.Answered() {
		return
	}
	c.Awaited = append(c.Awaited, p)
	c.Awaited = c.Awaited[max(0, len(c.Awaited)-otaAwaitedMax):]
}

// awaits returns the packet whose response is awaited. A response is taken once.
func (c *otaCounters) awaits(counter uint64) (otaAwaited, error) {
	if counter > c.Counter {
		return otaAwaited{}, fault.New(fault.NotFound, "no packet of this counter was sent to this card")
	}
	for _, p := range c.Awaited {
		if p.Counter == counter {
			return p, nil
		}
	}
	return otaAwaited{}, fault.New(fault.CardCounter, "no response to the packet of this counter is awaited, or not any more")
}

// answered books the proof of a response.
func (c *otaCounters) answered(counter uint64, proof error, now time.Time) error {
	if _, err := c.awaits(counter); err != nil {
		return err
	}
	if proof != nil {
		return proof
	}
	c.Awaited = slices.DeleteFunc(c.Awaited, func(p otaAwaited) bool { return p.Counter == counter })
	c.Seen = now
	return nil
}

// otaName is the row of a card's key set: see cardname.go. Nothing opens it again.
func (s *Service) otaName(ctx context.Context, c OTACard) (store.Ref, error) {
	return s.named(ctx, kindOTACard, c.Issuer, fmt.Appendf(nil, "cardkms-ota-card-name/1\n%s\x00%s\x00%c%s", c.Issuer, c.Key, c.KVN, c.KDD))
}

// overTheAir is one operation with the keys of one card.
type overTheAir struct {
	OTACard
	keys   scp80.Keys
	number byte // KIc and KID
	ref    store.Ref
	before otaCounters // as it was at the beginning
}

func (o overTheAir) header(p otaAwaited) scp80.Header {
	return scp80.Header{SPI: p.SPI, KIc: o.number, KID: o.number, TAR: p.TAR}
}

// beginOTA checks the caller, finds the card's keys and reads its row. The caller
// releases the keys.
func (s *Service) beginOTA(ctx context.Context, r Request, op Operation, use key.Use, in OTACard) (e event, o overTheAir, err error) {
	if e, err = s.start(ctx, r, op, in.Issuer, "keys/"+printable(in.Key)); err != nil {
		return e, o, err
	}
	o.OTACard = in
	if len(in.KDD) != kddBytes {
		return e, o, s.refuse(ctx, e, errNotKDD)
	}
	e.card = in.KDD
	if !r.Caller.Cards.Holds(in.KDD) {
		return e, o, s.refuse(ctx, e, fault.New(fault.Forbidden, "this card is not in your card range"))
	}
	v, err := s.version(ctx, in.Issuer, in.Key, key.OTA, in.KVN, use)
	if err != nil {
		return e, o, s.refuse(ctx, e, err)
	}
	e.key, e.algorithm = v.ID.String(), algorithmOf(v)
	o.number = scp80.KeyByte(in.KVN, v.CardAlgorithm)
	if o.keys, err = cardkey.OTA(v, in.KDD); err == nil {
		o.ref, err = s.otaName(ctx, in)
	}
	if err == nil {
		err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := get(tx, o.ref, &o.before); return err })
	}
	if err != nil {
		return e, o, s.refuse(ctx, e, err)
	}
	return e, o, nil
}

// otaSecured refuses packets that anybody could alter or send again, and responses
// that would prove nothing or that the token could not read.
func otaSecured(spi scp80.SPI, k scp80.Keys) error {
	switch {
	case spi.Check() != scp80.CC:
		return fault.New(fault.InvalidInput, "a packet has a cryptographic checksum; without one anybody alters it")
	case spi.Counting() != scp80.Higher && spi.Counting() != scp80.OneHigher:
		return fault.New(fault.InvalidInput, "a packet has a counter that the card checks; without one anybody sends it again")
	case spi.Answered() && spi.AnswerCheck() != scp80.CC:
		return fault.New(fault.InvalidInput, "a response has a cryptographic checksum; without one it proves nothing")
	}
	return scp80.Decipherable(spi, k.KIc)
}

// OTAPacketInput asks for one command packet.
type OTAPacketInput struct {
	OTACard
	SPI  scp80.SPI
	TAR  [3]byte // toolkit application reference of the receiver
	Data []byte  // 1 to scp80.DataMax bytes
}

// OTAPacket is a secured packet.
type OTAPacket struct {
	Packet  []byte // from CPL on
	Counter uint64 // that was given to it alone
}

// SecureOTAPacket secures one packet for one card under the next counter of its key
// set. The packet leaves after its counter is durable: if the process dies before, or
// the answer is lost, the counter is used up and no other packet has it. The same request
// under its Idempotency-Key has this packet again, at whichever node, until the key set of
// the card has another one.
func (s *Service) SecureOTAPacket(ctx context.Context, r Request, in OTAPacketInput) (out OTAPacket, err error) {
	e, o, err := s.beginOTA(ctx, r, OTAPacketOp, key.Protect, in.OTACard)
	if err != nil {
		return out, err
	}
	defer s.cfg.Token.Release(o.keys.KIc, o.keys.KID)
	p := otaAwaited{Counter: o.before.Counter + 1, SPI: in.SPI, TAR: in.TAR}
	var to otaGiven
	if to.Request, err = s.given(ctx, r); err != nil {
		return out, s.refuse(ctx, e, err)
	}
	again := to.Request != "" && to.Request == o.before.Given.Request
	if again {
		p.Counter = o.before.Counter
	}
	e.detail = map[string]string{"kvn": fmt.Sprintf("%02X", in.KVN), "tar": fmt.Sprintf("%X", in.TAR), "ota_counter": fmt.Sprintf("%010X", p.Counter)}
	packet, err := s.otaPacket(ctx, o, p, in.Data)
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	e.digest = digestOf(packet)
	if to.Request != "" {
		to.Packet = hex.EncodeToString(e.digest[:])
	}
	if again {
		if to != o.before.Given {
			e.digest = audit.Digest{}
			return out, s.refuse(ctx, e, fault.New(fault.IdempotencyMismatch, "this Idempotency-Key belongs to another request"))
		}
		e.detail["again"] = "true"
	}
	if p.Counter >= otaAlarm {
		e.detail["counter"] = "ending"
		s.cfg.Logger.Warn("the counter of a card's over-the-air keys nears its end", "key", e.key)
	}
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var c otaCounters
		n, err := get(tx, o.ref, &c)
		if err != nil {
			return err
		}
		e.outcome = nil
		if c.Counter != o.before.Counter {
			e.outcome = fault.New(fault.Conflict, "another packet for this card was secured meanwhile; ask again")
			return nil
		}
		if again {
			return nil
		}
		c.gave(p, to)
		c.Nonce = newID()
		return put(tx, o.ref, n, c)
	})
	if err != nil {
		return out, err
	}
	return OTAPacket{Packet: packet, Counter: p.Counter}, nil
}

// otaPacket computes a packet, which nobody may see before its counter is booked.
func (s *Service) otaPacket(ctx context.Context, o overTheAir, p otaAwaited, data []byte) ([]byte, error) {
	if err := otaSecured(p.SPI, o.keys); err != nil {
		return nil, err
	}
	// A card blocks at the greatest counter, and what is blocked answers nothing more.
	if p.Counter >= scp80.CounterMax {
		return nil, fault.New(fault.KeyState, "the counter of this key set is at its end; the card needs a new one")
	}
	return scp80.Command(ctx, s.cfg.Token, o.keys, o.header(p), p.Counter, data)
}

// OTAResponseInput is what a card answered to a packet.
type OTAResponseInput struct {
	OTACard
	Counter  uint64 // of the packet
	Response []byte // packet from RPL on
}

// OTAResponse is a response that verified.
type OTAResponse struct {
	Status scp80.Status
	Data   []byte
}

// VerifyOTAResponse verifies the proof of receipt for a packet, once. The response must
// name the counter of that packet; a packet that was answered, or is too long ago, is
// fault.CardCounter.
func (s *Service) VerifyOTAResponse(ctx context.Context, r Request, in OTAResponseInput) (out OTAResponse, err error) {
	e, o, err := s.beginOTA(ctx, r, OTAVerify, key.Move, in.OTACard)
	if err != nil {
		return out, err
	}
	defer s.cfg.Token.Release(o.keys.KIc, o.keys.KID)
	e.detail = map[string]string{"kvn": fmt.Sprintf("%02X", in.KVN), "ota_counter": fmt.Sprintf("%010X", in.Counter)}
	got, proof := s.openOTA(ctx, o, in)
	if proof != nil && fault.CodeOf(proof) != fault.ProofFailed {
		return out, s.refuse(ctx, e, proof)
	}
	if proof == nil {
		e.detail["status"] = fmt.Sprintf("%02X", byte(got.Status))
	}
	now := s.cfg.Now().UTC()
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var c otaCounters
		n, err := get(tx, o.ref, &c)
		if err != nil {
			return err
		}
		if e.outcome = c.answered(in.Counter, proof, now); e.outcome != nil && proof == nil {
			return nil // a response that came in twice changes nothing
		}
		c.Nonce = newID()
		return put(tx, o.ref, n, c)
	})
	if err != nil {
		return out, err
	}
	return OTAResponse{Status: got.Status, Data: got.Data}, nil
}

// openOTA checks a response against the packet that it says it answers.
func (s *Service) openOTA(ctx context.Context, o overTheAir, in OTAResponseInput) (scp80.Response, error) {
	p, err := o.before.awaits(in.Counter)
	if err != nil {
		return scp80.Response{}, err
	}
	a, err := scp80.ParseAnswer(in.Response)
	if err != nil {
		return scp80.Response{}, err
	}
	got, err := a.Open(ctx, s.cfg.Token, o.keys, o.header(p))
	if err == nil && (!got.Proved || got.Counter != p.Counter) {
		err = fault.Proof()
	}
	return got, err
}
