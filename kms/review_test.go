package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
	"cardkms/kms/update"
	"cardkms/softhsm/cardsim"
)

// connectAt authenticates at another level than the profile's.
func (h *harness) connectAt(c *cardsim.Card, l scp03.Level) string {
	h.t.Helper()
	id, answer := h.answer(c)
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer, Level: &l})
	h.must(err)
	_, err = c.Transmit(a.ExternalAuthenticate)
	h.must(err)
	return id
}

// TestSuite00NeverInClear: only the channel hides an image of suite 00, so a
// level without C-DECRYPTION gets none of it.
func TestSuite00NeverInClear(t *testing.T) {
	h := newHarness(t, func(h *harness) { h.profile.Suite = update.Plain })
	h.image("cos", 1, random(700))
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	p, err := h.create(card, id, "cos")
	h.must(err)
	for _, l := range []scp03.Level{0x00, 0x01, 0x11} {
		id := h.connectAt(card, l)
		_, err := h.service.PackageScript(h.ctx, h.req(), kms.PackageScriptInput{
			Issuer: h.issuer, Channel: id, Package: p.ID, Step: kms.StepChunks, Chunks: []int{1},
		})
		h.want(fmt.Sprintf("chunks at level %02X", byte(l)), err, fault.ChannelState)
	}
	id = h.connectAt(card, 0x11)
	_, err = h.create(card, id, "cos")
	h.want("a package at level 11", err, fault.ChannelState)
}

// TestCounterThatIsNotProved: the card cryptogram does not cover the counter, so
// one that is not verified neither locks a card out nor hides a clone.
func TestCounterThatIsNotProved(t *testing.T) {
	h := newHarness(t, func(h *harness) { h.profile.AID = nil })
	card := h.card(1)
	id, a := h.answer(card)
	copy(a[29:32], []byte{0xFF, 0xFF, 0xFF})
	h.must(h.prove(id, a))
	_, err := h.authenticate(card)
	h.must(err)

	h = newHarness(t)
	card = h.card(1)
	_, err = h.authenticate(card)
	h.must(err)
	id, a = h.answer(card)
	stripped := append(bytes.Clone(a[:29]), a[32:]...)
	stripped[12] &^= scp03.IPseudo
	h.want("a counter that was taken out", h.prove(id, stripped), fault.ProfileMismatch)
	id, a = h.answer(card)
	copy(a[29:32], []byte{0xFF, 0xFF, 0xFF})
	h.want("a counter that was raised", h.prove(id, a), fault.ProofFailed)
}

// TestCountersOfKeySets: a card counts for each of its key sets.
func TestCountersOfKeySets(t *testing.T) {
	h := newHarness(t)
	newer := random(32)
	h.load("isd", key.GPSCP03, key.AES256, 0x31, newer)
	old := h.card(1)
	for range 3 {
		_, err := h.authenticate(old)
		h.must(err)
	}
	moved := h.card(1, func(c *cardsim.Config) {
		set, err := cardsim.Personalise(newer, c.KDD, 0x31, 16)
		h.must(err)
		c.KeySets = []cardsim.KeySet{set}
	})
	_, err := h.authenticate(moved)
	h.must(err)
	_, err = h.authenticate(old)
	h.must(err)
}

// TestAnswersBelongToQuestions: an object that the card gives to another question
// is no status and no receipt.
func TestAnswersBelongToQuestions(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(300))
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	other, err := h.ask(card, id, plain("80CA006600"))
	h.must(err)
	_, err = h.service.CreatePackage(h.ctx, h.req(), kms.CreatePackageInput{
		Issuer: h.issuer, Channel: id, Image: "cos", UpdateKey: "upd", KVN: updKVN, Status: other,
	})
	h.want("the answer to GET DATA 0066 as a status", err, fault.ChannelState)
}

// TestCardPagesStayInTheRange: no page shows a card outside the caller's
// range, and all of those in it come.
func TestCardPagesStayInTheRange(t *testing.T) {
	h := newHarness(t)
	for n := byte(1); n <= 6; n++ {
		_, err := h.authenticate(h.card(n))
		h.must(err)
	}
	r := h.req()
	r.Caller.Cards = kms.CardRange{From: [10]byte{9: 2}, To: [10]byte{9: 4}}
	for _, limit := range []int{1, 2, 3, 10} {
		var seen []string
		for after := ""; ; {
			cards, next, err := h.service.Cards(h.ctx, r, h.issuer, after, limit)
			h.must(err)
			for _, c := range cards {
				seen = append(seen, fmt.Sprintf("%X", c.KDD[9:]))
			}
			if after = next; next == "" {
				break
			}
		}
		slices.Sort(seen) // rows are in the order of their names, which nobody can foretell
		if fmt.Sprint(seen) != "[02 03 04]" {
			t.Errorf("limit %d: %v", limit, seen)
		}
	}
}

// TestImageRowIsNotBelieved: a row that somebody marked as registered is sealed
// for no card.
func TestImageRowIsNotBelieved(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(300))
	ref := store.Ref{Kind: "image", Issuer: h.issuer, ID: "cos"}
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error {
		row, err := tx.Get(ref)
		if err != nil {
			return err
		}
		row.Version++
		row.Body = bytes.Replace(row.Body, []byte(`"Counter":2`), []byte(`"Counter":9`), 1)
		return tx.Put(row)
	}))
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	_, err = h.create(card, id, "cos")
	h.want("a changed description", err, fault.ObjectTampered)
}

// TestOneCallerCannotTakeEveryChannel leaves room for the others.
func TestOneCallerCannotTakeEveryChannel(t *testing.T) {
	h := newHarness(t)
	open := func(r kms.Request) error {
		_, err := h.service.OpenChannel(h.ctx, r, kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
		return err
	}
	for range 500 {
		h.must(open(h.req()))
	}
	h.want("one more", open(h.req()), fault.RateLimited)
	other := h.req()
	other.Caller.ID += "-other"
	h.must(open(other))
	h.advance(3 * 3600e9)
	h.service.Sweep()
	if n := h.service.ChannelsOpen(); n != 0 {
		t.Errorf("%d channels are left after their life", n)
	}
	h.must(open(h.req()))
}

// broken is a kms.Maker whose second value fails.
type broken struct {
	known
	calls *int
}

func (b broken) Make(ctx context.Context, label string, a key.Algorithm, c derive.Class, p key.Part) (derive.Root, error) {
	if *b.calls++; *b.calls == 2 {
		return derive.Root{}, errors.New("mistyped")
	}
	return b.known.Make(ctx, label, a, c, p)
}

// TestKeyLoadThatBrokeOff does not block the name: the next attempt takes the next
// version number.
func TestKeyLoadThatBrokeOff(t *testing.T) {
	h := newHarness(t)
	n := kms.NewKey{
		Issuer: h.issuer, Name: "static", Usage: key.GPSCP03, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: "none", KVN: 0x35,
	}
	calls := 0
	m := broken{known{h.token, random(16)}, &calls}
	if _, err := h.service.LoadKey(h.ctx, "test", n, m); err == nil {
		t.Fatal("a value that failed made a key")
	}
	v, err := h.service.LoadKey(h.ctx, "test", n, m)
	h.must(err)
	if v.ID.Version != 2 || len(v.KCVs) != 3 {
		t.Errorf("the next attempt made %s with %d values", v.ID, len(v.KCVs))
	}
}
