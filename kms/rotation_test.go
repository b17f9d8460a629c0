package kms_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
	"cardkms/softhsm/cardsim"
)

const newKVN = 0x31

// rotating is a harness whose key isd has a second version.
func rotating(t *testing.T, adjust ...func(*harness)) (*harness, []byte) {
	t.Helper()
	h := newHarness(t, adjust...)
	next := random(32)
	h.load("isd", key.GPSCP03, key.AES256, newKVN, next)
	h.advance(2 * time.Second) // past the cache of key versions
	return h, next
}

// open authenticates a card under the keys of one KVN.
func (h *harness) open(c *cardsim.Card, kvn byte) (string, error) {
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", KVN: kvn})
	if err != nil {
		return "", err
	}
	answer, err := c.Transmit(o.InitializeUpdate)
	if err != nil {
		return "", err
	}
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: o.ID, Response: answer})
	if err != nil {
		return "", err
	}
	r, err := c.Transmit(a.ExternalAuthenticate)
	if err == nil && !bytes.Equal(r, []byte{0x90, 0}) {
		err = fmt.Errorf("EXTERNAL AUTHENTICATE: %X", r)
	}
	return o.ID, err
}

func (h *harness) stored(c [10]byte) kms.Card {
	h.t.Helper()
	got, err := h.service.Card(h.ctx, h.as(kms.SecurityOfficer), h.issuer, fmt.Sprintf("%X", c))
	h.must(err)
	return got
}

// move brings a card to the newest version, from wherever an earlier try left it.
func (h *harness) move(c *cardsim.Card) error {
	if id, err := h.open(c, newKVN); err == nil {
		return h.retire(c, id)
	} else if torn(err) || fault.CodeOf(err) != fault.CardRefused && fault.CodeOf(err) != fault.ProofFailed {
		return err
	}
	id, err := h.open(c, kvn)
	if err != nil {
		return err
	}
	out, err := h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	if err != nil {
		return err
	}
	answer, err := c.Transmit(out.Command)
	if err != nil {
		return err
	}
	if _, err := h.service.ConfirmKeys(h.ctx, h.req(), h.issuer, id, answer); err != nil {
		return err
	}
	if id, err = h.open(c, newKVN); err != nil {
		return err
	}
	return h.retire(c, id)
}

// retire takes the old keys away; a card that has none any more says so.
func (h *harness) retire(c *cardsim.Card, id string) error {
	del, err := h.service.RetireKeys(h.ctx, h.req(), h.issuer, id, kvn)
	if err != nil {
		return err
	}
	answer, err := c.Transmit(del)
	if err != nil {
		return err
	}
	_, err = h.service.Unwrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{answer}})
	return err
}

func TestRotationReachesACard(t *testing.T) {
	for name, quirk := range map[string]bool{"with length": false, "without length": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := rotating(t, func(h *harness) {
				if quirk {
					h.profile.PutKey = 1
				}
			})
			c := h.card(1, func(cfg *cardsim.Config) { cfg.Quirks.PutKeyNoLength = quirk })
			_, err := h.open(c, kvn)
			h.must(err)
			status := func() kms.Rotation {
				s, err := h.service.RotationStatus(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd")
				h.must(err)
				return s
			}
			if s := status(); s.Target != 2 || s.Remaining != 1 || s.Versions[0].Cards != 1 {
				t.Errorf("before: %+v", s)
			}
			h.must(h.move(c))
			if got := h.stored([10]byte{9: 1}); got.Move != nil || got.KVN != newKVN {
				t.Errorf("the card's row: %+v", got)
			}
			if s := status(); s.Remaining != 0 || s.Versions[1].Cards != 1 || s.MovedLastHour != 1 {
				t.Errorf("after: %+v", s)
			}
			if _, err := h.open(c, kvn); fault.CodeOf(err) != fault.CardRefused {
				t.Errorf("the old keys after the move: %v", err)
			}
			_, err = h.open(c, newKVN)
			h.must(err)
		})
	}
}

// TestRotationIsTornSafe cuts the card's power at every write of a move: in one way
// each by default, in every way with CARDKMS_LONG. After each cut the service still
// reaches the card, and the next try finishes.
func TestRotationIsTornSafe(t *testing.T) {
	h, _ := rotating(t)
	cuts := 0
	for n, more := 1, true; more; n++ {
		tears := cardsim.Tears[n%len(cardsim.Tears):][:1]
		if os.Getenv("CARDKMS_LONG") != "" {
			tears = cardsim.Tears[:]
		}
		for _, tear := range tears {
			h.advance(10 * time.Minute)
			h.service.Sweep() // the channels that the cuts left behind
			kdd := [10]byte{7: byte(tear), 8: byte(n >> 8), 9: byte(n)}
			c := h.cardOf(kdd)
			_, err := h.open(c, kvn)
			h.must(err)
			c.NVM().CutAt(n, tear)
			err = h.move(c)
			if err != nil && !torn(err) {
				t.Fatalf("write %d, %v: %v", n, tear, err)
			}
			if more = torn(err); !more {
				break
			}
			cuts++
			c.PowerOn()
			for try := 0; ; try++ {
				if err = h.move(c); err == nil || try == 3 {
					break
				}
				c.PowerOff()
				c.PowerOn()
			}
			if err != nil {
				t.Fatalf("after a cut at write %d, %v: %v; the row is %+v", n, tear, err, h.stored(kdd))
			}
			if got := h.stored(kdd); got.Move != nil || got.KVN != newKVN || got.Quarantined {
				t.Errorf("after a cut at write %d, %v: %+v", n, tear, got)
			}
		}
	}
	if cuts < 8 {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d cuts, every card moved", cuts)
}

func TestWrongKCVQuarantines(t *testing.T) {
	h, _ := rotating(t)
	c := h.card(1)
	id, err := h.open(c, kvn)
	h.must(err)
	_, err = h.service.ConfirmKeys(h.ctx, h.req(), h.issuer, id, []byte{0x90, 0})
	if err == nil {
		t.Error("an answer to nothing was confirmed")
	}
	id, err = h.open(c, kvn)
	h.must(err)
	out, err := h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.must(err)
	answer, err := c.Transmit(out.Command)
	h.must(err)
	// The same version with another value, as if the card had been sent other keys:
	// what the card answers cannot be changed on its way, so the service's row is.
	flipped := bytes.Clone(answer)
	flipped[0] ^= 1
	_, err = h.service.ConfirmKeys(h.ctx, h.req(), h.issuer, id, flipped)
	h.want("an answer that was changed on its way", err, fault.ProofFailed)
	_, err = h.service.ConfirmKeys(h.ctx, h.req(), h.issuer, id, answer)
	h.want("the channel after it", err, fault.ChannelClosed)
	if got := h.stored([10]byte{9: 1}); got.Move == nil || got.Move.State != kms.MoveSent {
		t.Errorf("the row: %+v", got)
	}
	h.must(h.move(c)) // the card has the new keys, and says so
}

// TestStatesAreEnforcedPerUse: a version that is suspended, deactivated or over
// stops what it may no longer do within a second, also on open channels.
func TestStatesAreEnforcedPerUse(t *testing.T) {
	h := newHarness(t)
	c := h.card(1)
	id, err := h.open(c, kvn)
	h.must(err)
	set := func(change func(*key.Version)) {
		t.Helper()
		h.must(h.changeVersion("isd", 1, change))
		h.advance(1100 * time.Millisecond)
	}
	wrap := func() error {
		_, err := h.service.Wrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{plain("80CA006600").Bytes()}})
		return err
	}
	h.must(wrap())
	set(func(v *key.Version) { v.State = key.Suspended })
	h.want("wrapping under a suspended version", wrap(), fault.KeyState)
	_, err = h.open(c, kvn)
	h.want("opening under a suspended version", err, fault.KeyState)
	_, err = h.open(c, 0)
	h.want("opening under the only version, which is suspended", err, fault.KeyState)
	set(func(v *key.Version) { v.State = key.Deactivated })
	h.want("wrapping under a deactivated version", wrap(), fault.KeyState)
	if _, err = h.open(c, kvn); err != nil {
		t.Errorf("reaching a card of a deactivated version: %v", err)
	}
	set(func(v *key.Version) { v.State, v.Ends = key.Active, h.clock() })
	h.want("wrapping after the cryptoperiod", wrap(), fault.KeyState)
	set(func(v *key.Version) { v.State = key.Compromised })
	_, err = h.open(c, kvn)
	h.want("opening under a compromised version", err, fault.KeyState)
	set(func(v *key.Version) { v.MovePlanned = true })
	if _, err = h.open(c, kvn); err != nil {
		t.Errorf("reaching a card of a compromised version under a plan: %v", err)
	}
}

func TestChangeKeysRefuses(t *testing.T) {
	h := newHarness(t)
	c := h.card(1)
	id, err := h.open(c, kvn)
	h.must(err)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("no newer version", err, fault.Conflict)
	_, err = h.service.RetireKeys(h.ctx, h.req(), h.issuer, id, kvn)
	h.want("retiring the keys in use", err, fault.Conflict)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, "0123456789abcdef0123456789abcdef")
	h.want("another channel", err, fault.ChannelClosed)
	h.loadCards("isd", key.GPSCP03, key.AES256, key.AES256, newKVN, random(32))
	h.advance(2 * time.Second)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("AES-256 keys under an AES-128 DEK", err, fault.KeyState)
	if errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
