package kms_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/fault"
)

// prepareOld asks for a script at one counter of the card that oldCard makes.
func (h *harness) prepareOld(counter uint32, change ...func(*kms.PrepareInput)) ([][]byte, error) {
	h.t.Helper()
	in := h.prepareInput(kms.CardAt{KDD: [10]byte{9: 7}, Counter: counter})
	in.Key, in.KVN, in.Profile, in.Level = "old", oldKVN, "old", scp03.CMAC
	for _, c := range change {
		c(&in)
	}
	out, err := h.service.PrepareScripts(h.ctx, h.req(), in)
	if err != nil {
		return nil, err
	}
	return out[0].Commands, out[0].Err
}

// importOld puts the card that oldCard makes into the registry, which it cannot enter by a
// proof of its own where initiation is implicit.
func (h *harness) importOld() {
	h.t.Helper()
	_, err := h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "old", []kms.ImportedCard{{KDD: [10]byte{9: 7}, KVN: oldKVN}})
	h.must(err)
}

// TestPreparedSCP02: a card of SCP02 that was not there runs a script once, at its counter:
// one that says its challenge before, and one that says nothing before it obeys.
func TestPreparedSCP02(t *testing.T) {
	for _, i := range []byte{0x45, 0x55, 0x75, 0x1A} {
		t.Run(fmt.Sprintf("i=%02X", i), func(t *testing.T) {
			h, _ := newLegacy(t, i, scp03.CMAC)
			card := h.oldCard(i)
			h.importOld()
			first, again := 4, 1
			if i == 0x1A {
				first, again = 2, 0
			}
			var script [][]byte
			for counter := range uint32(3) {
				var err error
				script, err = h.prepareOld(counter)
				h.must(err)
				if len(script) != first {
					t.Fatalf("%d commands", len(script))
				}
				if at := h.play(card, script); at != -1 {
					t.Fatalf("counter %d: the card stopped at command %d: %X", counter, at, script[at])
				}
				if at := h.play(card, script); at != again {
					t.Errorf("counter %d: the same script again stopped at %d, want %d", counter, at, again)
				}
			}
			_, err := h.prepareOld(1)
			h.want("a counter that served a script", err, fault.CardCounter)
			same, err := h.prepareOld(2)
			h.must(err)
			if !slices.EqualFunc(script, same, bytes.Equal) {
				t.Errorf("the same request has another script:\n%X\n%X", script, same)
			}
			if i == 0x1A {
				_, _, err := h.answerOld(card)
				h.want("a channel to a card that proves nothing", err, fault.InvalidInput)
				return
			}
			id, err := h.openOld(card) // whose counter says that it ran all three
			h.must(err)
			_, err = h.wrapOn(id, plain("80CA006600").Bytes())
			h.must(err)
			_, err = h.prepareOld(3)
			h.want("a counter that the card proved", err, fault.CardCounter)
		})
	}
}

// TestPreparedSCP02Refusals: what would repeat secrets, what no card of this kind can
// take, and what officers did not allow.
func TestPreparedSCP02Refusals(t *testing.T) {
	h, _ := newLegacy(t, 0x55, scp03.CMAC)
	h.importOld()
	_, err := h.prepareOld(1, func(in *kms.PrepareInput) { in.Level = 0x03 })
	h.want("a script that encrypts", err, fault.InvalidInput)
	_, err = h.prepareOld(scp02.CounterMax + 1)
	h.want("a counter beyond the end", err, fault.InvalidInput)
	_, err = h.prepareOld(scp02.CounterMax)
	h.must(err)
	if e := h.lastEntry(); e.Detail["ending"] != "true" || e.Algorithm != "legacy" {
		t.Errorf("%+v", e)
	}

	h, _ = newLegacy(t, 0x15, scp03.CMAC)
	h.importOld()
	_, err = h.prepareOld(1)
	h.want("a card that chooses its challenge", err, fault.InvalidInput)

	h = newHarness(t, speaking(0x55, scp03.CMAC))
	h.loadOld(1, oldKVN)
	h.importOld()
	_, err = h.prepareOld(1)
	h.want("without an exception", err, fault.LegacyRefused)
}
