package kms_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/des"
	"fmt"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/secret"
	"cardkms/softhsm/cardsim"
)

const oldKVN = 0x20

var oldMaster = unhex("404142434445464748494A4B4C4D4E4F")

// speaking gives the service a profile of SCP02.
func speaking(i byte, level scp03.Level) func(*harness) {
	return func(h *harness) {
		h.profiles = []profile.Profile{{
			Name: "old", Profile: channel.Profile{AID: isdAID}, I: i, Level: level, Attempts: 3,
			Keys: profile.Keys{Algorithm: key.TDEA2, Diversification: diversify.VISA2, From: 0x01, To: 0x7F},
		}}
	}
}

// undiversified has the cards of SCP02 have keys that are the same on all of them.
func undiversified(h *harness) { h.profiles[0].Keys.Diversification = diversify.None }

// newLegacy is a service with a key of SCP02 and officers who made an exception for it.
func newLegacy(t *testing.T, i byte, level scp03.Level) (*harness, *board) {
	t.Helper()
	h := newHarness(t, speaking(i, level))
	h.loadOld(1, oldKVN)
	b := h.officers()
	h.must(b.allow(1, 30))
	return h, b
}

// loadOld makes a version of the key of SCP02, diversified as GlobalPlatform's Java cards
// of that time are.
func (h *harness) loadOld(version int, n byte) {
	h.t.Helper()
	v, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
		Issuer: h.issuer, Name: "old", Usage: key.GPSCP02, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: diversify.VISA2, KVN: n,
	}, known{h.token, oldMaster})
	h.must(err)
	if v.ID.Version != version {
		h.t.Fatalf("version %d", v.ID.Version)
	}
}

func (h *harness) oldName(n int) string {
	return fmt.Sprintf("issuers/%s/keys/old/versions/%d", h.issuer, n)
}

func (b *board) allow(version, days int) error {
	until := b.h.clock().AddDate(0, 0, days).Format(time.DateOnly)
	return b.decide(approval.KeyAllowLegacy, b.h.oldName(version), map[string]string{"until": until, "reason": "cards-expire"})
}

// oldCard has keys of SCP02 beside those of SCP03.
func (h *harness) oldCard(i byte) *cardsim.Card {
	h.t.Helper()
	kdd := [10]byte{9: 7}
	return h.cardOf(kdd, func(c *cardsim.Config) {
		c.Legacy = cardsim.PersonaliseLegacy(oldMaster, kdd, oldKVN, i)
	})
}

// answerOld opens a channel of SCP02 and returns the card's answer.
func (h *harness) answerOld(c *cardsim.Card) (id string, answer []byte, err error) {
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", KVN: oldKVN, Profile: "old"})
	if err != nil {
		return "", nil, err
	}
	answer, err = c.Transmit(o.InitializeUpdate)
	return o.ID, answer, err
}

// proveOld has a card of SCP02 verified; EXTERNAL AUTHENTICATE is not sent.
func (h *harness) proveOld(c *cardsim.Card) (string, kms.AuthenticatedChannel, error) {
	id, answer, err := h.answerOld(c)
	if err != nil {
		return id, kms.AuthenticatedChannel{}, err
	}
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
	return id, a, err
}

// openOld runs mutual authentication.
func (h *harness) openOld(c *cardsim.Card) (string, error) {
	id, a, err := h.proveOld(c)
	if err != nil {
		return id, err
	}
	r, err := c.Transmit(a.ExternalAuthenticate)
	if err == nil && !bytes.Equal(r, []byte{0x90, 0}) {
		err = fmt.Errorf("EXTERNAL AUTHENTICATE: %X", r)
	}
	return id, err
}

func (h *harness) wrapOn(id string, commands ...[]byte) ([][]byte, error) {
	return h.service.Wrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: commands})
}

// talk sends commands through a channel and closes it in order.
func (h *harness) talk(c *cardsim.Card, id string, commands ...[]byte) ([][]byte, error) {
	w, err := h.wrapOn(id, commands...)
	if err != nil {
		return nil, err
	}
	answers, err := send(c, w)
	if err != nil {
		return nil, err
	}
	plain, err := h.service.Unwrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: answers})
	if err != nil {
		return nil, err
	}
	return plain, h.service.CloseChannel(h.ctx, h.req(), h.issuer, id)
}

var (
	selectFile = (apdu.Command{INS: 0xA4, Data: []byte{0x01, 0x01}, Ne: 256}).Bytes()
	readFile   = (apdu.Command{INS: 0xB0, Ne: 64}).Bytes()
)

// TestLegacyEndToEnd: a card of each "i" parameter at each level takes the commands, and
// every entry says that the algorithms are legacy.
func TestLegacyEndToEnd(t *testing.T) {
	for _, c := range []struct {
		i     byte
		level scp03.Level
	}{{0x05, 0x01}, {0x15, 0x03}, {0x15, 0x00}, {0x35, 0x11}, {0x45, 0x03}, {0x55, 0x01}, {0x75, 0x13}} {
		t.Run(fmt.Sprintf("i=%02X level=%02X", c.i, byte(c.level)), func(t *testing.T) {
			h, _ := newLegacy(t, c.i, c.level)
			card := h.oldCard(c.i)
			size := h.ledger.Size()
			for range 2 {
				id, err := h.openOld(card)
				h.must(err)
				plain, err := h.talk(card, id, selectFile, readFile)
				h.must(err)
				if len(plain) != 2 || len(plain[1]) != 66 || !bytes.HasSuffix(plain[1], []byte{0x90, 0}) {
					t.Errorf("%X", plain)
				}
			}
			entries, err := h.ledger.Entries(h.ctx, size, 100)
			h.must(err)
			for _, e := range entries {
				if e.Algorithm != audit.Legacy || e.Outcome != audit.OutcomeOK {
					t.Errorf("%+v", e)
				}
			}
			if len(entries) != 10 {
				t.Errorf("%d entries", len(entries))
			}
			card.PowerOff()
			card.PowerOn()
			_, err = h.authenticate(card) // by SCP03, as before
			h.must(err)
		})
	}
}

// TestLegacyIsOff: without an exception nothing is spoken; with one until its end.
func TestLegacyIsOff(t *testing.T) {
	h := newHarness(t, speaking(0x15, 0x01))
	h.loadOld(1, oldKVN)
	b := h.officers()
	card := h.oldCard(0x15)
	_, _, err := h.answerOld(card)
	h.want("without an exception", err, fault.LegacyRefused)
	if e := h.lastEntry(); e.Outcome != "legacy_refused" || e.Algorithm != audit.Legacy {
		t.Errorf("%+v", e)
	}
	for name, params := range map[string]map[string]string{
		"no end":             {"reason": "x"},
		"no reason":          {"until": h.clock().AddDate(0, 1, 0).Format(time.DateOnly)},
		"over a year":        {"until": h.clock().AddDate(1, 0, 1).Format(time.DateOnly), "reason": "x"},
		"a day that is over": {"until": h.clock().AddDate(0, 0, -1).Format(time.DateOnly), "reason": "x"},
		"no date":            {"until": "soon", "reason": "x"},
		"something else":     {"until": h.clock().AddDate(0, 1, 0).Format(time.DateOnly), "reason": "x", "days": "3"},
	} {
		h.want(name, b.decide(approval.KeyAllowLegacy, h.oldName(1), params), fault.InvalidInput)
	}
	month := map[string]string{"until": h.clock().AddDate(0, 1, 0).Format(time.DateOnly), "reason": "x"}
	h.want("an exception for SCP03", b.decide(approval.KeyAllowLegacy, h.versionName(1), month), fault.Conflict)

	h.must(b.allow(1, 1))
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.wrapOn(id, readFile)
	h.must(err)
	day := 24 * time.Hour
	h.advance(h.clock().Truncate(day).Add(2 * day).Sub(h.clock()))
	_, err = h.wrapOn(id, readFile)
	h.want("wrapping after its end", err, fault.LegacyRefused)
	_, _, err = h.answerOld(card)
	h.want("opening after its end", err, fault.LegacyRefused)
	h.must(b.allow(1, 365))
	_, _, err = h.answerOld(card)
	h.must(err)
}

// TestLegacyEndsUnderChannels: an exception that ends stops open channels within a second,
// also those whose card has not answered yet.
func TestLegacyEndsUnderChannels(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x01)
	card := h.oldCard(0x15)
	end := func(v *key.Version) { v.LegacyUntil = h.clock() }
	id, err := h.openOld(card)
	h.must(err)
	waiting, answer, err := h.answerOld(card)
	h.must(err)
	h.must(h.changeVersion("old", 1, end))
	h.advance(1100 * time.Millisecond)
	_, err = h.wrapOn(id, readFile)
	h.want("wrapping", err, fault.LegacyRefused)
	_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: waiting, Response: answer})
	h.want("authenticating", err, fault.LegacyRefused)
	if e := h.lastEntry(); e.Key != h.oldName(1) || e.Algorithm != audit.Legacy {
		t.Errorf("%+v", e)
	}
}

// TestLegacyCounter: a counter comes again once, for an EXTERNAL AUTHENTICATE that was
// lost, and one channel alone secures commands under it.
func TestLegacyCounter(t *testing.T) {
	h, _ := newLegacy(t, 0x55, 0x01)
	card := h.oldCard(0x55)
	first, _, err := h.proveOld(card)
	h.must(err)
	second, _, err := h.proveOld(card)
	h.must(err)
	if e := h.lastEntry(); e.Detail["repeated"] != "true" {
		t.Errorf("%+v", e.Detail)
	}
	_, err = h.wrapOn(first, readFile)
	h.must(err)
	_, err = h.wrapOn(second, selectFile)
	h.want("another command under the same keys", err, fault.CardCounter)
	_, _, err = h.proveOld(card)
	h.want("a counter whose keys were used", err, fault.CardCounter)
	h.restart()
	_, _, err = h.proveOld(card)
	h.want("the same after a restart", err, fault.CardCounter)

}

// TestLegacyCounterLost: a card that never gets EXTERNAL AUTHENTICATE goes into
// quarantine, out of which officers let it.
func TestLegacyCounterLost(t *testing.T) {
	h, b := newLegacy(t, 0x15, 0x01)
	card := h.oldCard(0x15)
	for range 2 {
		_, _, err := h.proveOld(card)
		h.must(err)
	}
	_, _, err := h.proveOld(card)
	h.want("the third time", err, fault.CardCounter)
	_, _, err = h.proveOld(card)
	h.want("and after that", err, fault.CardQuarantined)
	h.must(b.decide(approval.CardRelease, "issuers/"+h.issuer+"/cards/00000000000000000007", nil))
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.talk(card, id, readFile)
	h.must(err)
	c, err := h.service.Card(h.ctx, h.req(), h.issuer, "00000000000000000007")
	if err != nil || c.Version != h.oldName(1) || c.Counters[c.Version] != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestLegacyAborts: three sessions in a row that encrypt commands and are not ended in
// order are enough; one that is ended in order begins anew.
func TestLegacyAborts(t *testing.T) {
	h, _ := newLegacy(t, 0x75, 0x13)
	card := h.oldCard(0x75)
	secretData := (apdu.Command{INS: 0xD6, Data: []byte("a secret")}).Bytes()
	abort := func() error {
		h.advance(time.Minute) // past the wait, see TestLegacyBackOff
		id, err := h.openOld(card)
		if err == nil {
			_, err = h.wrapOn(id, secretData)
		}
		return err
	}
	h.must(abort())
	h.must(abort())
	h.advance(time.Minute)
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.talk(card, id, readFile)
	h.must(err)
	for range kms.AbortedMax - 1 {
		h.must(abort())
	}
	h.restart() // a process that dies forgets nothing
	h.must(abort())
	h.want("the fourth", abort(), fault.CardQuarantined)
}

// TestLegacyBackOff: after an aborted session that encrypted, the card waits: 5 seconds,
// and twice as long after the next one. A wait that is asked for again grows no longer,
// counts nothing, and is over at once when a session is ended in order.
func TestLegacyBackOff(t *testing.T) {
	h, _ := newLegacy(t, 0x75, 0x13)
	card := h.oldCard(0x75)
	secretData := (apdu.Command{INS: 0xD6, Data: []byte("a secret")}).Bytes()
	for n, wait := range []time.Duration{5 * time.Second, 10 * time.Second} {
		id, err := h.openOld(card)
		h.must(err)
		_, err = h.wrapOn(id, secretData)
		h.must(err)
		h.restart()
		h.advance(wait - time.Second)
		for range 4 {
			_, err = h.openOld(card)
			h.want(fmt.Sprintf("before the wait %d is over", n), err, fault.RateLimited)
		}
		h.advance(time.Second)
	}
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.talk(card, id, readFile)
	h.must(err)
	_, err = h.openOld(card)
	h.must(err)
}

// TestLegacySpoilt: a session whose commands somebody changes on the way is aborted, even
// if the caller unwraps the card's refusals and closes it.
func TestLegacySpoilt(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x03)
	card := h.oldCard(0x15)
	for n := range kms.AbortedMax + 1 {
		h.advance(time.Minute)
		id, err := h.openOld(card)
		if n == kms.AbortedMax {
			h.want("one more session", err, fault.CardQuarantined)
			break
		}
		h.must(err)
		w, err := h.wrapOn(id, (apdu.Command{INS: 0xD6, Data: []byte("a secret")}).Bytes())
		h.must(err)
		w[0][5] ^= 1
		r, err := card.Transmit(w[0])
		h.must(err)
		if !bytes.Equal(r, []byte{0x69, 0x82}) {
			t.Fatalf("the card answered %X", r)
		}
		_, err = h.service.Unwrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{r}})
		h.must(err)
		h.must(h.service.CloseChannel(h.ctx, h.req(), h.issuer, id))
	}
}

// TestLegacyCounterEnds: from 80 % on every proof tells, and nothing follows FFFF.
func TestLegacyCounterEnds(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x01)
	for _, c := range []struct {
		counter uint32
		want    string
	}{{0xCCCB, ""}, {0xCCCC, "ending"}, {0xFFFF, "ending"}} {
		h.must(h.proveAt(c.counter))
		if e := h.entryOf("channel.authenticate"); e.Detail["counter"] != c.want {
			t.Errorf("%04X: %+v", c.counter, e.Detail)
		}
	}
	h.want("what comes after the end", h.proveAt(0), fault.CardCounter)
}

// proveAt answers as the card of newLegacy would at a counter, with its keys.
func (h *harness) proveAt(counter uint32) error {
	h.t.Helper()
	kdd := [10]byte{9: 7}
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", Profile: "old"})
	h.must(err)
	host, challenge := o.InitializeUpdate[5:13], []byte("random")
	seq := []byte{byte(counter >> 8), byte(counter)}
	cbc := func(k, in []byte) []byte {
		c, err := des.NewTripleDESCipher(append(bytes.Clone(k), k[:8]...))
		h.must(err)
		out := make([]byte, len(in))
		cipher.NewCBCEncrypter(c, make([]byte, 8)).CryptBlocks(out, in)
		return out
	}
	sENC := cbc(cardsim.PersonaliseLegacy(oldMaster, kdd, oldKVN, 0x15).ENC, append(append([]byte{0x01, 0x82}, seq...), make([]byte, 12)...))
	mac := cbc(sENC, bytes.Join([][]byte{host, seq, challenge, {0x80, 0, 0, 0, 0, 0, 0, 0}}, nil))
	answer := bytes.Join([][]byte{kdd[:], {oldKVN, 0x02}, seq, challenge, mac[16:], {0x90, 0}}, nil)
	_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: o.ID, Response: answer})
	return err
}

// TestLegacyFailedProofs: a wrong cryptogram and an unknown KVN look the same, and three
// put the card into quarantine, as under SCP03.
func TestLegacyFailedProofs(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x01)
	card := h.oldCard(0x15)
	var said []string
	for _, at := range []int{27, 10, 12} { // the cryptogram, the KVN, the counter
		id, answer, err := h.answerOld(card)
		h.must(err)
		answer[at] ^= 1
		_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
		h.want(fmt.Sprintf("byte %d", at), err, fault.ProofFailed)
		said = append(said, err.Error())
	}
	if said[0] != said[1] || said[1] != said[2] {
		t.Errorf("%q", said)
	}
	_, err := h.openOld(card)
	h.want("after three", err, fault.CardQuarantined)
}

// TestLegacyRefusals: what a channel of SCP02 does not carry.
func TestLegacyRefusals(t *testing.T) {
	h, b := newLegacy(t, 0x75, 0x13)
	card := h.oldCard(0x75)
	h.image("cos", 1, []byte("content"))
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.service.CreatePackage(h.ctx, h.req(), kms.CreatePackageInput{Issuer: h.issuer, Channel: id, Image: "cos", UpdateKey: "upd", KVN: updKVN, Status: []byte{0x90, 0}})
	h.want("a package", err, fault.Conflict)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("moving to nothing", err, fault.Conflict)
	h.loadOld(2, oldKVN+1)
	h.advance(1100 * time.Millisecond)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("moving to a version that could not be spoken with", err, fault.Conflict)
	h.must(b.allow(2, 10))
	id, err = h.openOld(card)
	h.must(err)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("PUT KEY on SoftHSM2, which does not wrap with 3DES", err, fault.TokenUnable)
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", Profile: "old"})
	h.want("a key of SCP03 by SCP02: "+o.ID, err, fault.NotFound)
	_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old"})
	h.want("a key of SCP02 by SCP03", err, fault.NotFound)
}

// TestLegacyCards: such cards are imported and counted, and a card that has both kinds
// of keys counts once for each key.
func TestLegacyCards(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x01)
	added, err := h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "old", []kms.ImportedCard{{KDD: [10]byte{9: 9}, KVN: oldKVN, Counter: 3}})
	if err != nil || added != 1 {
		t.Errorf("%d, %v", added, err)
	}
	card := h.oldCard(0x15)
	for range 3 {
		id, err := h.openOld(card)
		h.must(err)
		_, err = h.talk(card, id, readFile)
		h.must(err)
		card.PowerOff()
		card.PowerOn()
		_, err = h.authenticate(card)
		h.must(err)
		card.PowerOff()
		card.PowerOn()
	}
	for name, want := range map[string]int64{"old": 2, "isd": 1} {
		r, err := h.service.RotationStatus(h.ctx, h.as(kms.SecurityOfficer), h.issuer, name)
		if err != nil || len(r.Versions) != 1 || r.Versions[0].Cards != want || r.Target != 1 || r.Remaining != 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// threeKnown imports three values, of a card that was not diversified.
type threeKnown struct {
	*hsm.Token
	values map[key.Part][]byte
}

func (k threeKnown) Make(ctx context.Context, label string, a key.Algorithm, c derive.Class, p key.Part) (derive.Root, error) {
	return k.Import(ctx, label, a, c, secret.New(bytes.Clone(k.values[p])))
}

// TestLegacyUndiversified: card keys that are the same on every card.
func TestLegacyUndiversified(t *testing.T) {
	h := newHarness(t, speaking(0x15, 0x03), undiversified)
	keys := cardsim.PersonaliseLegacy(oldMaster, [10]byte{9: 7}, oldKVN, 0x15)
	_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
		Issuer: h.issuer, Name: "old", Usage: key.GPSCP02, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: diversify.None, KVN: oldKVN,
	}, threeKnown{h.token, map[key.Part][]byte{key.ENC: keys.ENC, key.MAC: keys.MAC, key.DEK: keys.DEK}})
	h.must(err)
	h.must(h.officers().allow(1, 30))
	card := h.oldCard(0x15)
	id, err := h.openOld(card)
	h.must(err)
	_, err = h.talk(card, id, selectFile, readFile)
	h.must(err)
}

// TestLegacyKeys says which descriptions of keys no token could follow.
func TestLegacyKeys(t *testing.T) {
	good := kms.NewKey{Issuer: "acme", Name: "old", Usage: key.GPSCP02, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: diversify.EMV, KVN: 0x20}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*kms.NewKey){
		"an AES master":       func(n *kms.NewKey) { n.Algorithm = key.AES128 },
		"AES card keys":       func(n *kms.NewKey) { n.CardAlgorithm = key.AES128 },
		"three-key 3DES":      func(n *kms.NewKey) { n.Algorithm, n.CardAlgorithm = key.TDEA3, key.TDEA3 },
		"CMAC under 3DES":     func(n *kms.NewKey) { n.Diversification = diversify.AN10922 },
		"a method of AES":     func(n *kms.NewKey) { n.Diversification = diversify.KDF3 },
		"no KVN":              func(n *kms.NewKey) { n.KVN = 0 },
		"a KVN that is none":  func(n *kms.NewKey) { n.KVN = 0x80 },
		"no diversification":  func(n *kms.NewKey) { n.Diversification = "" },
		"a method of nothing": func(n *kms.NewKey) { n.Diversification = "emv-option-a" },
	} {
		n := good
		change(&n)
		if n.Check() == nil {
			t.Errorf("%s passed", name)
		}
	}
}

// TestLegacyReport counts down to the end of each exception.
func TestLegacyReport(t *testing.T) {
	h, _ := newLegacy(t, 0x15, 0x01)
	id, err := h.openOld(h.oldCard(0x15))
	h.must(err)
	_, err = h.wrapOn(id, readFile)
	h.must(err)
	h.advance(time.Second)
	note, err := h.service.Report(h.ctx, kms.Request{Caller: kms.Caller{ID: "spiffe://test/role/auditor/one", Role: kms.Auditor}}, kms.ReportInput{Name: "algorithms", From: h.clock().Add(-time.Hour), To: h.clock()})
	h.must(err)
	for _, want := range []string{`"daysLeft": 30`, `"version": "` + h.oldName(1) + `"`, `"not known yet": 1`, `"` + h.oldName(1) + `": 4`} {
		if !strings.Contains(string(note), want) {
			t.Errorf("the report lacks %s:\n%s", want, note)
		}
	}
}

// TestLegacyLife: officers have keys of SCP02 made in the token as others are, with a
// master and with the keys of the cards themselves.
func TestLegacyLife(t *testing.T) {
	h := newHarness(t, speaking(0x15, 0x01))
	b := h.officers()
	for n, diversification := range []string{"emv", "none"} {
		h.profiles[0].Keys.Diversification = diversify.Method(diversification)
		h.register(written(h.profiles[0]))
		params := map[string]string{
			"usage": "gp-scp02", "algorithm": "tdea-2key", "card_algorithm": "tdea-2key", "diversification": diversification,
			"kvn": fmt.Sprintf("2%d", n), "cryptoperiod_days": "365",
		}
		h.must(b.decide(approval.KeyCreate, h.oldName(n+1), params))
		h.must(b.decide(approval.KeyActivate, h.oldName(n+1), nil))
		h.must(b.allow(n+1, 10))
		h.advance(1100 * time.Millisecond)
		_, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", KVN: 0x20 + byte(n), Profile: "old"})
		h.must(err)
	}
	all, err := h.service.AllKeys(h.ctx)
	h.must(err)
	for _, v := range all {
		for p := range v.KCVs {
			h.must(h.token.Check(h.ctx, cardkey.Root(v, p)))
		}
	}
}
