package kms_test

import (
	"bytes"
	"crypto/des"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

// failed is what an officer has of a card that does not authenticate: the host
// challenge and the card's answer.
type failed struct {
	kdd          [10]byte
	host, answer []byte
}

// fails has a card answer INITIALIZE UPDATE of the service.
func (h *harness) fails(c *cardsim.Card, kdd [10]byte) failed {
	h.t.Helper()
	opened, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	h.must(err)
	c.PowerOff()
	c.PowerOn()
	r, err := c.Transmit(opened.InitializeUpdate)
	h.must(err)
	h.must(h.service.CloseChannel(h.ctx, h.req(), h.issuer, opened.ID))
	return failed{kdd, opened.InitializeUpdate[5:13], bytes.TrimSuffix(r, []byte{0x90, 0x00})}
}

func (h *harness) explain(f failed) (string, error) {
	h.t.Helper()
	c, err := h.propose("ada", h.explaining(f))
	if err != nil {
		return "", err
	}
	h.approve(c, "bob", "cyd")
	c, err = h.execute(c)
	return c.Found, err
}

func (h *harness) explaining(f failed) kms.ProposeInput {
	return kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.CardExplain, Object: "issuers/" + h.issuer + "/cards/" + hex.EncodeToString(f.kdd[:]),
		Params: map[string]string{"key": "isd", "host": hex.EncodeToString(f.host), "answer": hex.EncodeToString(f.answer[10:])},
	}
}

// TestExplain tries the classic mistakes of personalisation: each is named, and
// nothing but its name.
func TestExplain(t *testing.T) {
	swap := func(set *cardsim.KeySet) { set.ENC, set.MAC = set.MAC, set.ENC }
	for name, tt := range map[string]struct {
		change func(*cardsim.Config)
		aid    []byte // of the profile
		want   string
	}{
		"nothing wrong":        {func(*cardsim.Config) {}, isdAID, "as-expected"},
		"ENC and MAC swapped":  {func(c *cardsim.Config) { swap(&c.KeySets[0]) }, isdAID, "keys:mac-enc"},
		"DEK for MAC":          {func(c *cardsim.Config) { c.KeySets[0].MAC = c.KeySets[0].DEK }, isdAID, "keys:enc-dek"},
		"AID missing":          {func(*cardsim.Config) {}, nil, "aid:missing-in-profile"},
		"another AID":          {func(*cardsim.Config) {}, []byte{0xA0, 0, 0, 0, 3, 0, 0, 0}, "challenge:other-aid-or-random"},
		"another KVN":          {func(c *cardsim.Config) { c.KeySets[0].KVN = 0x31 }, isdAID, "kvn:30"},
		"keys of nobody":       {func(c *cardsim.Config) { c.KeySets[0].MAC = bytes.Repeat([]byte{7}, 16) }, isdAID, "none"},
		"swapped, another KVN": {func(c *cardsim.Config) { swap(&c.KeySets[0]); c.KeySets[0].KVN = 0x31 }, isdAID, "kvn:30/keys:mac-enc"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.enrol("ada", "bob", "cyd")
			h.profile.AID = tt.aid
			h.restart()
			kdd := [10]byte{0xE1, 0xE2, 0xE3, 9: 5}
			f := h.fails(h.cardOf(kdd, tt.change), kdd)
			got, err := h.explain(f)
			if err != nil || got != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
			e := h.lastEntry()
			if e.Operation != "card.explain" || e.Detail["found"] != tt.want || e.Card == "" {
				t.Errorf("%+v", e)
			}
			encoded, err := h.ledger.Leaves(h.ctx, 0, 1000)
			h.must(err)
			for _, b := range encoded {
				if strings.Contains(strings.ToUpper(string(b)), fmt.Sprintf("%X", kdd)) {
					t.Errorf("an entry names the card:\n%s", b)
				}
			}
		})
	}
}

// TestExplainDiversification: a card of another diversification, over a 3DES master,
// is told which.
func TestExplainDiversification(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
		Issuer: h.issuer, Name: "des", Usage: key.GPSCP03, Algorithm: key.TDEA2, CardAlgorithm: key.AES128, Diversification: diversify.EMV, KVN: 0x40,
	}, known{h.token, unhex("404142434445464748494A4B4C4D4E4F")})
	h.must(err)
	kdd := [10]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	// Master and card are those of GlobalPlatformPro's TestPlaintextKeys.
	card := h.cardOf(kdd, func(c *cardsim.Config) {
		c.KeySets[0] = cardsim.KeySet{KVN: 0x40, ENC: visa2Key(t, kdd, 1), MAC: visa2Key(t, kdd, 2), DEK: visa2Key(t, kdd, 3)}
	})
	f := h.fails(card, kdd)
	in := h.explaining(f)
	in.Params["key"] = "des"
	c, err := h.execute(h.approved(in))
	if err != nil || c.Found != "diversification:visa2" {
		t.Errorf("%q, %v", c.Found, err)
	}
}

// TestExplainIsLimited: three times a day for a card, by officers alone, over nothing
// that is no answer.
func TestExplainIsLimited(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	kdd := [10]byte{9: 1}
	f := h.fails(h.card(1), kdd)
	for range kms.ExplainsPerDay {
		_, err := h.explain(f)
		h.must(err)
	}
	_, err := h.explain(f)
	h.want("a fourth time", err, fault.RateLimited)
	other := f
	other.kdd = [10]byte{9: 2}
	_, err = h.explain(other) // another card; this one never gave that answer
	h.must(err)
	h.advance(25 * time.Hour)
	_, err = h.explain(f)
	h.must(err)
	u := h.req()
	_, err = h.service.Propose(h.ctx, u, h.explaining(f))
	h.want("an update server", err, fault.Forbidden)
	for name, change := range map[string]func(kms.ProposeInput){
		"no key":            func(in kms.ProposeInput) { delete(in.Params, "key") },
		"an unknown key":    func(in kms.ProposeInput) { in.Params["key"] = "none" },
		"no host challenge": func(in kms.ProposeInput) { delete(in.Params, "host") },
		"a short challenge": func(in kms.ProposeInput) { in.Params["host"] = "00" },
		"no answer":         func(in kms.ProposeInput) { delete(in.Params, "answer") },
		"a cut answer":      func(in kms.ProposeInput) { in.Params["answer"] = in.Params["answer"][2:] },
		"no hexadecimal":    func(in kms.ProposeInput) { in.Params["answer"] = "zz" },
		"a profile of none": func(in kms.ProposeInput) { in.Params["profile"] = "none" },
		"a value to try":    func(in kms.ProposeInput) { in.Params["value"] = "00" },
	} {
		in := h.explaining(f)
		change(in)
		if _, err := h.propose("ada", in); fault.CodeOf(err) != fault.InvalidInput && fault.CodeOf(err) != fault.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// visa2Key computes a card key by VISA2 over plain keys: 3DES(MK, x | F0 | t | x | 0F
// | t) with x = KDD[0..1] | KDD[4..7].
func visa2Key(t *testing.T, kdd [10]byte, purpose byte) []byte {
	t.Helper()
	mk := unhex("404142434445464748494A4B4C4D4E4F")
	block, err := des.NewTripleDESCipher(append(mk, mk[:8]...))
	if err != nil {
		t.Fatal(err)
	}
	x := append(append([]byte{}, kdd[:2]...), kdd[4:8]...)
	in := append(append(append([]byte{}, x...), 0xF0, purpose), append(append([]byte{}, x...), 0x0F, purpose)...)
	out := make([]byte, 16)
	block.Encrypt(out[:8], in[:8])
	block.Encrypt(out[8:], in[8:])
	return out
}
