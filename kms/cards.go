package kms

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"cardkms/derive/scp03"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Card is what the service remembers of one card.
type Card struct {
	KDD     []byte `json:"-"`      // key diversification data, 10 bytes; not kept but sealed
	Sealed  string `json:"sealed"` // see cardname.go
	Issuer  string `json:"issuer"`
	KVN     byte   `json:"kvn"`               // of the keys that last proved the card
	Version string `json:"version,omitempty"` // the newest version that proved it, a resource name
	Newest  byte   `json:"newest,omitempty"`  // KVN of Version
	Move    *Move  `json:"move,omitempty"`    // on its way to a newer version
	// Counters are the highest sequence counters that were proved, by the resource
	// name of the key version: a card counts for each of its key sets.
	Counters map[string]uint32 `json:"counters,omitempty"`
	// Prepared are the highest sequence counters for which a script was made, in the
	// same way, and Scripts the digests of these scripts: none of the counters serves
	// another script, and the highest one the same again.
	Prepared map[string]uint32 `json:"prepared,omitempty"`
	Scripts  map[string]string `json:"scripts,omitempty"`
	// SCP02 is what is known beside of key versions of gp-scp02, by resource name.
	SCP02 map[string]SCP02 `json:"scp02,omitempty"`
	// Proven are the newest versions that proved the card, by the name of the key: a card
	// may have keys of SCP02 beside those of SCP03.
	Proven      map[string]int `json:"proven,omitempty"`
	Failures    int            `json:"failures"` // failed proofs in a row
	Quarantined bool           `json:"quarantined"`
	Sequence    uint32         `json:"sequence"`          // of the newest package made
	Package     string         `json:"package,omitempty"` // id of the newest package
	Seen        time.Time      `json:"seen"`              // last successful proof
	// Nonce is new with every change, so that nobody finds a card by guessing what
	// the digest of its row, which the log holds, was computed from.
	Nonce string `json:"nonce"`
}

// attempt is what one answer to INITIALIZE UPDATE proved.
type attempt struct {
	answer  scp03.Answer
	version string // resource name of the keys that were tried
	// counts says that the answer's counter was verified. The card cryptogram does
	// not cover it; only the check of a pseudo-random card challenge does, and a
	// counter that anybody can write must not lock a card out.
	counts bool
	legacy bool // by SCP02
	agreed bool // by SCP11: the card's certificate vouches for its key, and version is the host's
	most   int  // failed proofs in a row that quarantine the card
	err    error
}

// proved books an attempt and returns what the caller gets: the proof's own
// error, quarantine, or a counter that did not rise or is missing where the card
// had one. A quarantined card is refused whatever it proved.
func (c *Card) proved(t attempt, now time.Time) error {
	switch {
	case c.Quarantined:
		return fault.New(fault.CardQuarantined, "the card is in quarantine")
	case fault.CodeOf(t.err) == fault.ProofFailed:
		c.Failures++
		c.Quarantined = c.Failures >= t.most
		return t.err
	case t.err != nil:
		return t.err
	}
	if err := c.rises(t, now); err != nil {
		return err
	}
	c.Failures, c.KVN, c.Seen = 0, t.answer.KVN, now
	if t.counts {
		c.Counters = with(c.Counters, t.version, t.answer.Counter)
	}
	return nil
}

var errCounter = fault.New(fault.CardCounter, "the card's sequence counter did not rise")

// rises refuses a counter that was there before.
func (c *Card) rises(t attempt, now time.Time) error {
	if t.legacy {
		return c.again(t, now)
	}
	if highest, counted := c.Counters[t.version]; counted && (!t.counts || t.answer.Counter <= highest) {
		return errCounter
	}
	return nil
}

// with returns a copy of a map in which a key has this value: a row is compared with
// what it was before.
func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := make(map[K]V, len(m)+1)
	maps.Copy(out, m)
	out[k] = v
	return out
}

// Card returns one card of an issuer.
func (s *Service) Card(ctx context.Context, r Request, issuer, kdd string) (c Card, err error) {
	if err := s.read(ctx, r, CardRead, issuer, "cards"); err != nil {
		return c, err
	}
	b, err := parseKDD(kdd)
	if err != nil {
		return c, err
	}
	if r.Caller.Role == UpdateServer && !r.Caller.Cards.Holds(b) {
		return c, fault.New(fault.NotFound, "no such card")
	}
	ref, err := s.cardRef(ctx, issuer, b)
	if err != nil {
		return c, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, ref, &c); return err })
	c.KDD = b
	return c, err
}

var errNotKDD = fault.New(fault.InvalidInput, "a card is named by its key diversification data, 20 hexadecimal digits")

// Cards returns at most limit cards of an issuer after a cursor, in the order of
// their rows' names, which is none that a reader would know. A caller with a card
// range gets those of each page that are in it: a page may be shorter, also empty,
// where others follow.
func (s *Service) Cards(ctx context.Context, r Request, issuer, after string, limit int) (cards []Card, next string, err error) {
	if err := s.read(ctx, r, CardRead, issuer, "cards"); err != nil {
		return nil, "", err
	}
	var rows []store.Row
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		rows, err = tx.List(kindCard, issuer, after, limit+1)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if len(rows) > limit {
		rows, next = rows[:limit], rows[limit-1].ID
	}
	for _, row := range rows {
		var c Card
		if err := json.Unmarshal(row.Body, &c); err != nil {
			return nil, "", fmt.Errorf("reading card %s: %w", row.ID, err)
		}
		if c.KDD, err = s.openCard(ctx, issuer, row.ID, c.Sealed); err != nil {
			return nil, "", err
		}
		if r.Caller.Role != UpdateServer || r.Caller.Cards.Holds(c.KDD) {
			cards = append(cards, c)
		}
	}
	return cards, next, err
}
