package kms

import (
	"context"
	"encoding/hex"
	"maps"
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
	KDD     string `json:"kdd"` // key diversification data, 20 hex digits
	Issuer  string `json:"issuer"`
	KVN     byte   `json:"kvn"`               // of the keys that last proved the card
	Version string `json:"version,omitempty"` // the newest version that proved it, a resource name
	Newest  byte   `json:"newest,omitempty"`  // KVN of Version
	Move    *Move  `json:"move,omitempty"`    // on its way to a newer version
	// Counters are the highest sequence counters that were proved, by the resource
	// name of the key version: a card counts for each of its key sets.
	Counters    map[string]uint32 `json:"counters,omitempty"`
	Failures    int               `json:"failures"` // failed proofs in a row
	Quarantined bool              `json:"quarantined"`
	Sequence    uint32            `json:"sequence"`          // of the newest package made
	Package     string            `json:"package,omitempty"` // id of the newest package
	Seen        time.Time         `json:"seen"`              // last successful proof
	// Nonce is new with every change, so that nobody finds a card by guessing what
	// the digest of its row, which the log holds, was computed from.
	Nonce string `json:"nonce"`
}

func cardRef(issuer string, kdd []byte) store.Ref {
	return store.Ref{Kind: kindCard, Issuer: issuer, ID: strings.ToUpper(hex.EncodeToString(kdd))}
}

// attempt is what one answer to INITIALIZE UPDATE proved.
type attempt struct {
	answer  scp03.Answer
	version string // resource name of the keys that were tried
	// counts says that the answer's counter was verified. The card cryptogram does
	// not cover it; only the check of a pseudo-random card challenge does, and a
	// counter that anybody can write must not lock a card out.
	counts bool
	err    error
}

// proved books an attempt and returns what the caller gets: the proof's own
// error, quarantine, or a counter that did not rise or is missing where the card
// had one. A quarantined card is refused whatever it proved.
func (c *Card) proved(t attempt, now time.Time) error {
	highest, counted := c.Counters[t.version]
	switch {
	case c.Quarantined:
		return fault.New(fault.CardQuarantined, "the card is in quarantine")
	case fault.CodeOf(t.err) == fault.ProofFailed:
		c.Failures++
		c.Quarantined = c.Failures >= FailuresMax
		return t.err
	case t.err != nil:
		return t.err
	case counted && (!t.counts || t.answer.Counter <= highest):
		return fault.New(fault.CardCounter, "the card's sequence counter did not rise")
	}
	c.Failures, c.KVN, c.Seen = 0, t.answer.KVN, now
	if t.counts {
		c.Counters = maps.Clone(c.Counters)
		if c.Counters == nil {
			c.Counters = map[string]uint32{}
		}
		c.Counters[t.version] = t.answer.Counter
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
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
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
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if r.Caller.Role != UpdateServer {
			cards, next, err = page[Card](tx, kindCard, issuer, after, limit)
			return err
		}
		cards, next, err = pageInRange(tx, issuer, after, limit, r.Caller.Cards)
		return err
	})
	return cards, next, err
}

// pageInRange is page for the cards of one range. A cursor never names a card
// outside it: rows are in the order of their KDD, so the range is one run of them.
func pageInRange(tx store.Rows, issuer, after string, limit int, r CardRange) (cards []Card, next string, err error) {
	from, to := strings.ToUpper(hex.EncodeToString(r.From[:])), strings.ToUpper(hex.EncodeToString(r.To[:]))
	var first Card
	if after < from {
		if n, err := get(tx, store.Ref{Kind: kindCard, Issuer: issuer, ID: from}, &first); err != nil {
			return nil, "", err
		} else if n > 0 {
			cards = append(cards, first)
		}
		after = from
	}
	rest, next, err := page[Card](tx, kindCard, issuer, after, max(1, limit-len(cards)))
	for _, c := range rest {
		if c.KDD > to {
			return cards, "", err
		}
		cards = append(cards, c)
	}
	if next >= to {
		next = ""
	}
	return cards, next, err
}
