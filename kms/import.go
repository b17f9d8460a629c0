package kms

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"cardkms/audit"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/derive/scp80"
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
	KDD [kddBytes]byte
	KVN byte // of the keys that it carries
	// Counter is its sequence counter, 0 for not known; of an ota key the highest that
	// another system gave to a packet.
	Counter uint64
}

// ImportCards takes cards of a key into the registry and returns how many were not there,
// or had their counter of an ota key raised, which repeats nothing. Other cards that are
// there stay as they are, so that the same list, sent again, goes on where it broke off. A
// card whose KVN no version has is refused by its place in the list, and then nothing
// happens.
//
// Each entry, one for importBatch cards in the order of the list, has the SHA-256 of its
// part, of 25 bytes for a card, whether it was there or not:
//
//	name of its row (16) | KVN (1) | counter (8, big-endian)
//
// The name is a MAC of the card (see cardname.go), because a digest of identifiers, of which
// there are few, would tell them to whoever tries them all. So who has the list shows that
// it is the one by sending it again: that changes nothing, and its entries have the digests
// of the first time.
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
		v, ok := versions[in.KVN]
		if !ok {
			return 0, s.refuse(ctx, e, fault.New(fault.InvalidInput, fmt.Sprintf("card %d of the list has a KVN that no version of the key has", i+1)))
		}
		if end := counterEnd(v.Usage); in.Counter > end {
			return 0, s.refuse(ctx, e, fault.New(fault.InvalidInput, fmt.Sprintf("card %d of the list has a counter above %X", i+1, end)))
		}
	}
	for batch := range slices.Chunk(cards, importBatch) {
		rows, err := s.newCards(ctx, issuer, name, batch, versions)
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

// counterEnd is the last counter of cards whose keys are of a usage.
func counterEnd(u key.Usage) uint64 {
	switch u {
	case key.OTA: // no packet has the last one
		return scp80.CounterMax - 1
	case key.GPSCP02:
		return scp02.CounterMax
	}
	return scp03.CounterMax
}

// byKVN returns the versions of a key that opens channels, or secures packets, by the Key
// Version Number that cards know them by.
func (s *Service) byKVN(ctx context.Context, issuer, name string) (map[byte]key.Version, error) {
	all, err := s.versions(ctx, issuer)
	if err != nil {
		return nil, err
	}
	out := map[byte]key.Version{}
	for _, v := range all {
		if v.ID.Name == name && (v.Usage.Channels() || v.Usage == key.OTA) && v.State != key.Destroyed {
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
	in      ImportedCard
	ref     store.Ref
	card    Card
	version int
	ota     *otaCounters // in the place of card and version; nil for a card of channels
}

// newCards makes the rows of imported cards, named and sealed.
func (s *Service) newCards(ctx context.Context, issuer, name string, cards []ImportedCard, versions map[byte]key.Version) ([]newCard, error) {
	out := make([]newCard, len(cards))
	for i, in := range cards {
		if versions[in.KVN].Usage == key.OTA {
			ref, err := s.otaName(ctx, OTACard{Issuer: issuer, Key: name, KVN: in.KVN, KDD: in.KDD[:]})
			if err != nil {
				return nil, err
			}
			out[i] = newCard{in: in, ref: ref, ota: &otaCounters{Counter: in.Counter, Nonce: newID()}}
			continue
		}
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
			c.Counters = map[string]uint32{c.Version: uint32(in.Counter)}
		}
		out[i] = newCard{in: in, ref: ref, card: c, version: v.Version}
	}
	return out, nil
}

// add writes the row of a card that is not there, or raises its counter over the air.
func (c newCard) add(tx store.Rows) (added bool, err error) {
	if c.ota == nil {
		n, err := versionOf(tx, c.ref)
		if err != nil || n > 0 {
			return false, err
		}
		return true, put(tx, c.ref, 0, c.card)
	}
	var before otaCounters
	n, err := get(tx, c.ref, &before)
	if err != nil || n > 0 && c.ota.Counter <= before.Counter {
		return false, err
	}
	before.Counter, before.Given, before.Nonce = c.ota.Counter, otaGiven{}, c.ota.Nonce
	return true, put(tx, c.ref, n, before)
}

// listDigest is the digest of one part of a list, see ImportCards.
func listDigest(batch []newCard) (audit.Digest, error) {
	h := sha256.New()
	for _, c := range batch {
		name, err := hex.DecodeString(c.ref.ID)
		if err != nil {
			return audit.Digest{}, fmt.Errorf("the name of a card's row: %w", err)
		}
		h.Write(binary.BigEndian.AppendUint64(append(name, c.in.KVN), c.in.Counter))
	}
	return audit.Digest(h.Sum(nil)), nil
}

// importBatch puts cards that are not there into the registry, and raises counters over
// the air, in one transaction. The entry says of counters how many rose, and the highest.
func (s *Service) importBatch(ctx context.Context, e event, name string, batch []newCard) (added int64, err error) {
	e.detail = map[string]string{"cards": fmt.Sprint(len(batch))}
	if e.digest, err = listDigest(batch); err != nil {
		return 0, err
	}
	var fresh int64
	err = s.log(ctx, &e, func(tx store.Rows) error {
		fresh = 0
		var raised int
		var highest uint64
		counts := map[int]int64{}
		for _, c := range batch {
			added, err := c.add(tx)
			if err != nil {
				return err
			}
			if !added {
				continue
			}
			if c.ota == nil {
				counts[c.version]++
			} else {
				raised, highest = raised+1, max(highest, c.ota.Counter)
			}
			fresh++
		}
		if raised > 0 {
			e.detail["counters"], e.detail["ota_counter"] = fmt.Sprint(raised), fmt.Sprintf("%010X", highest)
		}
		if highest >= otaAlarm {
			e.detail["counter"] = "ending"
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
