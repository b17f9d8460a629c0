package kms

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"cardkms/derive/scp03"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// FailuresMax is how many wrong card cryptograms in a row quarantine a card.
const FailuresMax = 3

// Card is what the service remembers of one card.
type Card struct {
	KDD         string    `json:"kdd"` // key diversification data, 20 hex digits
	Issuer      string    `json:"issuer"`
	KVN         byte      `json:"kvn"`     // of the keys that last proved the card
	Counter     uint32    `json:"counter"` // highest sequence counter seen
	CounterSeen bool      `json:"counterSeen"`
	Failures    int       `json:"failures"` // failed proofs in a row
	Quarantined bool      `json:"quarantined"`
	Sequence    uint32    `json:"sequence"`          // of the newest package made
	Package     string    `json:"package,omitempty"` // id of the newest package
	Seen        time.Time `json:"seen"`              // last successful proof
}

func cardRef(issuer string, kdd []byte) store.Ref {
	return store.Ref{Kind: kindCard, Issuer: issuer, ID: strings.ToUpper(hex.EncodeToString(kdd))}
}

// proved books the result of a card's proof and returns what the caller gets:
// the proof's own error, quarantine, or a counter that did not rise. A
// quarantined card is refused whatever it proved.
func (c *Card) proved(a scp03.Answer, proof error, now time.Time) error {
	switch {
	case c.Quarantined:
		return fault.New(fault.CardQuarantined, "the card is in quarantine")
	case fault.CodeOf(proof) == fault.ProofFailed:
		c.Failures++
		c.Quarantined = c.Failures >= FailuresMax
		return proof
	case proof != nil:
		return proof
	case a.CounterIncluded && c.CounterSeen && a.Counter <= c.Counter:
		return fault.New(fault.CardCounter, "the card's sequence counter did not rise")
	}
	c.Failures, c.KVN, c.Seen = 0, a.KVN, now
	if a.CounterIncluded {
		c.Counter, c.CounterSeen = a.Counter, true
	}
	return nil
}

// Card returns one card of an issuer.
func (s *Service) Card(ctx context.Context, r Request, issuer, kdd string) (c Card, err error) {
	if err := s.read(ctx, r, CardRead, issuer, "cards"); err != nil {
		return c, err
	}
	b, err := hex.DecodeString(kdd)
	if err != nil || len(b) != 10 {
		return c, fault.New(fault.InvalidInput, "a card is named by its key diversification data, 20 hexadecimal digits")
	}
	if r.Caller.Role == UpdateServer && !r.Caller.Cards.Holds(b) {
		return c, fault.New(fault.NotFound, "no such card")
	}
	err = s.cfg.Store.View(ctx, func(tx store.Tx) error {
		_, err := need(tx, cardRef(issuer, b), &c)
		return err
	})
	return c, err
}

// Cards returns at most limit cards of an issuer after a cursor.
func (s *Service) Cards(ctx context.Context, r Request, issuer, after string, limit int) (cards []Card, next string, err error) {
	if err := s.read(ctx, r, CardRead, issuer, "cards"); err != nil {
		return nil, "", err
	}
	err = s.cfg.Store.View(ctx, func(tx store.Tx) error {
		cards, next, err = page[Card](tx, kindCard, issuer, after, limit)
		return err
	})
	if r.Caller.Role != UpdateServer {
		return cards, next, err
	}
	mine := cards[:0]
	for _, c := range cards {
		if b, err := hex.DecodeString(c.KDD); err == nil && r.Caller.Cards.Holds(b) {
			mine = append(mine, c)
		}
	}
	return mine, next, err
}
