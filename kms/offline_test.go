package kms_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

// counterOf returns the highest sequence counter that a card proved.
func (h *harness) counterOf(c *cardsim.Card, kdd [10]byte) uint32 {
	h.t.Helper()
	_, err := h.authenticate(c)
	h.must(err)
	row := h.stored(kdd)
	return row.Counters[row.Version]
}

func (h *harness) prepareInput(cards ...kms.CardAt) kms.PrepareInput {
	return kms.PrepareInput{
		Issuer: h.issuer, Key: "isd", KVN: kvn, Level: 0x03, Cards: cards,
		Commands: [][]byte{plain("80CA006600").Bytes(), plain("80CA00E000").Bytes()},
	}
}

// play sends a prepared script to a card, and returns at which command the card
// stopped; -1 if it took all of them.
func (h *harness) play(c *cardsim.Card, script [][]byte) int {
	h.t.Helper()
	c.PowerOff()
	c.PowerOn()
	for i, command := range script {
		r, err := c.Transmit(command)
		h.must(err)
		if !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
			return i
		}
	}
	return -1
}

// TestPreparedScript: a card that was not there runs a script, once, at its counter;
// the service's next conversation with it goes on from there.
func TestPreparedScript(t *testing.T) {
	for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
		h := newHarness(t)
		h.profile.I = map[scp03.Mode]byte{scp03.S8: 0x70, scp03.S16: 0x71}[mode]
		h.restart()
		kdd := [10]byte{9: 1}
		card := h.cardOf(kdd, func(c *cardsim.Config) {
			if mode == scp03.S16 {
				c.I |= 0x01
			}
		})
		next := h.counterOf(card, kdd) + 1
		for _, level := range []scp03.Level{0x01, 0x03} {
			in := h.prepareInput(kms.CardAt{KDD: kdd, Counter: next})
			in.Level = level
			out, err := h.service.PrepareScripts(h.ctx, h.req(), in)
			h.must(err)
			h.must(out[0].Err)
			if len(out[0].Commands) != 4 {
				t.Fatalf("%d commands", len(out[0].Commands))
			}
			if at := h.play(card, out[0].Commands); at != -1 {
				t.Fatalf("level %02X: the card stopped at command %d", byte(level), at)
			}
			if at := h.play(card, out[0].Commands); at != 1 {
				t.Errorf("level %02X: the same script again stopped at %d, want EXTERNAL AUTHENTICATE", byte(level), at)
			}
			next = h.counterOf(card, kdd) + 1
		}
	}
}

// TestPreparedCounters: no counter serves two scripts, none that was proved serves
// one, and a script for another counter than the card's is refused by the card.
func TestPreparedCounters(t *testing.T) {
	h := newHarness(t)
	kdd := [10]byte{9: 1}
	card := h.cardOf(kdd)
	proved := h.counterOf(card, kdd)
	commands := h.prepareInput().Commands
	prepare := func(counter uint32) ([][]byte, error) {
		in := h.prepareInput(kms.CardAt{KDD: kdd, Counter: counter})
		in.Commands = commands
		out, err := h.service.PrepareScripts(h.ctx, h.req(), in)
		h.must(err)
		if (out[0].Err == nil) != (len(out[0].Commands) > 0) {
			t.Errorf("%+v", out[0])
		}
		return out[0].Commands, out[0].Err
	}
	_, err := prepare(proved)
	h.want("a counter that was proved", err, fault.CardCounter)
	far, err := prepare(proved + 5)
	h.must(err)
	if at := h.play(card, far); at != 1 {
		t.Errorf("a script for a counter that the card has not: it stopped at %d", at)
	}
	_, err = prepare(proved + 4)
	h.want("one before it", err, fault.CardCounter)
	for range 2 {
		again, err := prepare(proved + 5)
		h.must(err)
		if !slices.EqualFunc(far, again, bytes.Equal) {
			t.Errorf("the same request has another script:\n%X\n%X", far, again)
		}
		if e := h.lastEntry(); e.Detail["again"] != "true" {
			t.Errorf("%+v", e.Detail)
		}
		h.restart()
	}
	slices.Reverse(commands)
	_, err = prepare(proved + 5)
	h.want("a counter that served another script", err, fault.CardCounter)
	if e := h.lastEntry(); e.Operation != "script.prepare" || e.Outcome != string(fault.CardCounter) || e.Card == "" {
		t.Errorf("%+v", e)
	}
	_, err = h.authenticate(card) // the card is not harmed by what it refused
	h.must(err)
	_, err = prepare(scp03.CounterMax)
	h.must(err)
	if e := h.lastEntry(); e.Detail["ending"] != "true" || e.Detail["counter"] != "FFFFFF" || e.Detail["apdus"] != "4" {
		t.Errorf("%+v", e.Detail)
	}
	_, err = prepare(scp03.CounterMax + 1)
	h.want("beyond the end", err, fault.InvalidInput)
}

// TestPreparedRefusals: one card's refusal is its own; what is wrong with the request
// refuses it whole.
func TestPreparedRefusals(t *testing.T) {
	h := newHarness(t)
	good, unknown := [10]byte{9: 1}, [10]byte{9: 2}
	h.counterOf(h.cardOf(good), good)
	bad := h.cardOf([10]byte{9: 3})
	h.quarantine(bad)
	in := h.prepareInput(kms.CardAt{KDD: good, Counter: 90}, kms.CardAt{KDD: unknown, Counter: 90}, kms.CardAt{KDD: [10]byte{9: 3}, Counter: 90}, kms.CardAt{KDD: [10]byte{0: 1}, Counter: 90})
	r := h.req()
	r.Caller.Cards = kms.CardRange{To: [10]byte{9: 9}}
	out, err := h.service.PrepareScripts(h.ctx, r, in)
	h.must(err)
	for i, want := range []fault.Code{"", fault.NotFound, fault.CardQuarantined, fault.Forbidden} {
		if out[i].Err != nil && fault.CodeOf(out[i].Err) != want || (out[i].Err == nil) != (want == "") {
			t.Errorf("card %d: %v, want %q", i, out[i].Err, want)
		}
	}
	for name, c := range map[string]struct {
		change func(*kms.PrepareInput)
		want   fault.Code
	}{
		"no cards":             {func(in *kms.PrepareInput) { in.Cards = nil }, fault.TooLarge},
		"too many cards":       {func(in *kms.PrepareInput) { in.Cards = make([]kms.CardAt, 501) }, fault.TooLarge},
		"too many commands":    {func(in *kms.PrepareInput) { in.Commands = make([][]byte, 4001) }, fault.TooLarge},
		"no commands":          {func(in *kms.PrepareInput) { in.Commands = nil }, fault.TooLarge},
		"no APDU":              {func(in *kms.PrepareInput) { in.Commands = [][]byte{{1, 2, 3}} }, fault.InvalidInput},
		"an unknown key":       {func(in *kms.PrepareInput) { in.Key = "none" }, fault.NotFound},
		"a key of other usage": {func(in *kms.PrepareInput) { in.Key = "upd" }, fault.NotFound},
		"an unknown profile":   {func(in *kms.PrepareInput) { in.Profile = "none" }, fault.NotFound},
		"an unknown KVN":       {func(in *kms.PrepareInput) { in.KVN = 0x44 }, fault.NotFound},
	} {
		in := h.prepareInput(kms.CardAt{KDD: good, Counter: 91})
		c.change(&in)
		_, err := h.service.PrepareScripts(h.ctx, h.req(), in)
		h.want(name, err, c.want)
	}
	for name, change := range map[string]func(*kms.PrepareInput){
		"level 33":                  func(in *kms.PrepareInput) { in.Level = 0x33 },
		"level 00":                  func(in *kms.PrepareInput) { in.Level = 0 },
		"a command that is secured": func(in *kms.PrepareInput) { in.Commands = [][]byte{{0x84, 0xE2, 0, 0}} },
		"a command that has no room": func(in *kms.PrepareInput) {
			in.Commands = [][]byte{append([]byte{0x80, 0xE2, 0, 0, 0xFF}, make([]byte, 255)...)}
		},
	} {
		in := h.prepareInput(kms.CardAt{KDD: good, Counter: 91})
		change(&in)
		out, err := h.service.PrepareScripts(h.ctx, h.req(), in)
		h.must(err)
		h.want(name, out[0].Err, fault.InvalidInput)
	}
	out, err = h.service.PrepareScripts(h.ctx, h.req(), h.prepareInput(kms.CardAt{KDD: good, Counter: 91}))
	h.must(err)
	h.must(out[0].Err) // no refusal used the counter up
}

// TestHostChallenges: whatever differs in a request for a prepared script has another host
// challenge, and so other session keys.
func TestHostChallenges(t *testing.T) {
	h := newHarness(t)
	h.load("isd", key.GPSCP03, key.AES128, kvn+1, unhex("505152535455565758595A5B5C5D5E5F"))
	at := kms.CardAt{KDD: [10]byte{9: 1}, Counter: 7}
	challenge := func(change func(*kms.PrepareInput, *kms.CardAt)) string {
		in, at := h.prepareInput(at), at
		in.Commands = [][]byte{plain("80CA006600").Bytes(), plain("80CA00E000").Bytes()}
		change(&in, &at)
		got, err := h.service.HostChallenge(h.ctx, in, at)
		h.must(err)
		return fmt.Sprintf("%X", got)
	}
	same := func(*kms.PrepareInput, *kms.CardAt) {}
	first := challenge(same)
	if again := challenge(same); again != first {
		t.Errorf("the same request has %s and %s", first, again)
	}
	seen := map[string]string{first: "the first"}
	tell := func(name, got string) {
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the challenge of %s", name, other)
		}
		seen[got] = name
	}
	for name, change := range map[string]func(*kms.PrepareInput, *kms.CardAt){
		"another card":    func(_ *kms.PrepareInput, at *kms.CardAt) { at.KDD[0] = 1 },
		"another counter": func(_ *kms.PrepareInput, at *kms.CardAt) { at.Counter++ },
		"another level":   func(in *kms.PrepareInput, _ *kms.CardAt) { in.Level = 0x01 },
		"another version": func(in *kms.PrepareInput, _ *kms.CardAt) { in.KVN++ },
		"another order":   func(in *kms.PrepareInput, _ *kms.CardAt) { slices.Reverse(in.Commands) },
		"another command": func(in *kms.PrepareInput, _ *kms.CardAt) { in.Commands[1][3] ^= 1 },
		"a command less":  func(in *kms.PrepareInput, _ *kms.CardAt) { in.Commands = in.Commands[:1] },
	} {
		tell(name, challenge(change))
	}
	h.profile.AID = unhex("A000000151000001")
	h.restart()
	tell("another profile", challenge(same))
}
