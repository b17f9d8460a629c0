package kms_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"cardkms/audit"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

func kddOf(n int) (kdd [10]byte) {
	binary.BigEndian.PutUint64(kdd[2:], uint64(n))
	return kdd
}

func TestImportCards(t *testing.T) {
	h, _ := rotating(t)
	add := func(cards ...kms.ImportedCard) (int64, error) {
		return h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", cards)
	}
	var list []kms.ImportedCard
	for i := range 1200 { // more than two transactions
		list = append(list, kms.ImportedCard{KDD: kddOf(i), KVN: []byte{kvn, newKVN}[i%2], Counter: uint64(i)})
	}
	list = append(list, list[3]) // one twice
	if n, err := add(list...); err != nil || n != 1200 {
		t.Fatalf("%d were added, %v", n, err)
	}
	if n, err := add(list...); err != nil || n != 0 {
		t.Errorf("the same list again: %d were added, %v", n, err)
	}
	digests := h.digests(kms.CardImport)
	if want := []audit.Digest{h.listDigest(list[:500]), h.listDigest(list[500:1000]), h.listDigest(list[1000:])}; !slices.Equal(digests, append(want, want...)) {
		t.Errorf("the digests of a list that was sent twice: %x", digests)
	}
	s, err := h.service.RotationStatus(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd")
	h.must(err)
	if s.Versions[0].Cards != 600 || s.Versions[1].Cards != 600 || s.Remaining != 600 || s.MovedLastDay != 0 {
		t.Errorf("after the import: %+v", s)
	}
	if c := h.stored(kddOf(7)); c.KVN != newKVN || c.Counters[c.Version] != 7 {
		t.Errorf("a card: %+v", c)
	}
	size := h.ledger.Size()
	_, err = add(kms.ImportedCard{KDD: kddOf(9000), KVN: kvn}, kms.ImportedCard{KDD: kddOf(9001), KVN: 0x77})
	h.want("a KVN that no version has", err, fault.InvalidInput)
	if _, err := h.service.Card(h.ctx, h.as(kms.SecurityOfficer), h.issuer, fmt.Sprintf("%X", kddOf(9000))); fault.CodeOf(err) != fault.NotFound || h.ledger.Size() != size+1 {
		t.Error("a bad list left more behind than its refusal")
	}
	_, err = add()
	h.want("no cards", err, fault.TooLarge)
	_, err = h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "none", list[:1])
	h.want("another key", err, fault.NotFound)
	// A card that was imported with a counter is met with one that did not rise.
	c := h.cardOf(kddOf(4))
	_, err = h.open(c, kvn)
	h.want("a card whose counter is behind the registry's", err, fault.CardCounter)
	_, err = h.open(h.cardOf(kddOf(0)), kvn)
	h.must(err)
}

// digests returns those of the entries of an operation, in their order.
func (h *harness) digests(op kms.Operation) (all []audit.Digest) {
	h.t.Helper()
	entries, err := h.ledger.Entries(h.ctx, 0, int(h.ledger.Size()))
	h.must(err)
	for _, e := range entries {
		if e.Operation == string(op) {
			all = append(all, e.Digest)
		}
	}
	return all
}

// listDigest is what ImportCards says of the digest of a list.
func (h *harness) listDigest(list []kms.ImportedCard) audit.Digest {
	h.t.Helper()
	var text string
	for _, c := range list {
		row, err := h.service.CardRow(h.ctx, h.issuer, c.KDD[:])
		h.must(err)
		text += fmt.Sprintf("%s%02x%016x", row.ID, c.KVN, c.Counter)
	}
	return sha256.Sum256(unhex(text))
}

func TestBlastRadius(t *testing.T) {
	h, _ := rotating(t)
	c := h.card(1)
	id, err := h.open(c, kvn)
	h.must(err)
	_ = id
	r, err := h.service.BlastRadius(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", 1)
	h.must(err)
	if r.Cards != 1 || r.Channels != 1 || r.Next != 3 || r.Version.State != key.Active {
		t.Errorf("%+v", r)
	}
	_, err = h.service.BlastRadius(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", 9)
	h.want("no such version", err, fault.NotFound)
}
