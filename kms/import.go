package kms

import (
	"context"
	"fmt"
	"slices"

	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// ImportMax is the greatest number of cards in one request.
const ImportMax = 5000

// importBatch is how many cards one transaction takes.
const importBatch = 500

// ImportedCard is a card that a factory personalised, before the service has met
// it.
type ImportedCard struct {
	KDD     [kddBytes]byte
	KVN     byte   // of the keys that it carries
	Counter uint32 // its sequence counter; 0 for not known
}

// ImportCards takes cards of a key into the registry and returns how many were not
// there. Cards that are there stay as they are, so that the same list, sent again,
// goes on where it broke off. A card whose KVN no version has is refused by its
// place in the list, and then nothing happens.
func (s *Service) ImportCards(ctx context.Context, r Request, issuer, name string, cards []ImportedCard) (added int64, err error) {
	e, err := s.start(ctx, r, CardImport, issuer, "keys/"+printable(name))
	if err != nil {
		return 0, err
	}
	if len(cards) == 0 || len(cards) > ImportMax {
		return 0, s.refuse(ctx, e, fault.New(fault.TooLarge, fmt.Sprintf("a list has 1 to %d cards", ImportMax)))
	}
	versions, err := s.byKVN(ctx, issuer, name)
	if err != nil {
		return 0, s.refuse(ctx, e, err)
	}
	for i, in := range cards {
		if _, ok := versions[in.KVN]; !ok {
			return 0, s.refuse(ctx, e, fault.New(fault.InvalidInput, fmt.Sprintf("card %d of the list has a KVN that no version of the key has", i+1)))
		}
	}
	for batch := range slices.Chunk(cards, importBatch) {
		rows, err := s.newCards(ctx, issuer, batch, versions)
		if err != nil {
			return added, err
		}
		n, err := s.importBatch(ctx, e, name, rows)
		if err != nil {
			return added, err
		}
		added += n
	}
	return added, nil
}

// byKVN returns the versions of a key that opens channels by the Key Version Number that
// cards know them by.
func (s *Service) byKVN(ctx context.Context, issuer, name string) (map[byte]key.Version, error) {
	all, err := s.versions(ctx, issuer)
	if err != nil {
		return nil, err
	}
	out := map[byte]key.Version{}
	for _, v := range all {
		if v.ID.Name == name && v.Usage.Channels() && v.State != key.Destroyed {
			out[v.KVN] = v
		}
	}
	if len(out) == 0 {
		return nil, fault.New(fault.NotFound, "no such key")
	}
	return out, nil
}

// newCard is a row that is not there yet.
type newCard struct {
	ref     store.Ref
	card    Card
	version int
}

// newCards makes the rows of imported cards, named and sealed.
func (s *Service) newCards(ctx context.Context, issuer string, cards []ImportedCard, versions map[byte]key.Version) ([]newCard, error) {
	out := make([]newCard, len(cards))
	for i, in := range cards {
		ref, err := s.cardRef(ctx, issuer, in.KDD[:])
		if err != nil {
			return nil, err
		}
		sealed, err := s.sealCard(ctx, ref, in.KDD[:])
		if err != nil {
			return nil, err
		}
		v := versions[in.KVN].ID
		c := Card{Sealed: sealed, Issuer: issuer, KVN: in.KVN, Version: v.String(), Newest: in.KVN, Nonce: newID()}
		if in.Counter > 0 {
			c.Counters = map[string]uint32{c.Version: in.Counter}
		}
		out[i] = newCard{ref: ref, card: c, version: v.Version}
	}
	return out, nil
}

// importBatch puts cards that are not there into the registry, in one transaction.
func (s *Service) importBatch(ctx context.Context, e event, name string, batch []newCard) (added int64, err error) {
	e.detail = map[string]string{"cards": fmt.Sprint(len(batch))}
	var fresh int64
	err = s.log(ctx, &e, func(tx store.Rows) error {
		fresh = 0
		counts := map[int]int64{}
		for _, c := range batch {
			if n, err := versionOf(tx, c.ref); err != nil {
				return err
			} else if n > 0 {
				continue
			}
			if err := put(tx, c.ref, 0, c.card); err != nil {
				return err
			}
			counts[c.version]++
			fresh++
		}
		return countCards(tx, e.issuer, name, counts)
	})
	if err != nil {
		return 0, err
	}
	return fresh, nil
}

// countCards books cards that are new to the registry.
func countCards(tx store.Rows, issuer, name string, counts map[int]int64) error {
	if len(counts) == 0 {
		return nil
	}
	ref := fleetRef(issuer, name)
	var f fleet
	n, err := get(tx, ref, &f)
	if err != nil {
		return err
	}
	if f.Cards == nil {
		f.Cards = map[int]int64{}
	}
	for v, c := range counts {
		f.Cards[v] += c
	}
	return put(tx, ref, n, f)
}
