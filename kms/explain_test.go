package kms_test

import (
	"bytes"
	"crypto/des"
	"encoding/hex"
	"fmt"
	"maps"
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
	return spread(t, append(append([]byte{}, kdd[:2]...), kdd[4:8]...), purpose)
}

// emvKey is a card key by the method of EMV CPS, which takes the last 6 bytes.
func emvKey(t *testing.T, kdd [10]byte, purpose byte) []byte {
	t.Helper()
	return spread(t, kdd[4:], purpose)
}

// spread encrypts six bytes of a card and a purpose twice, with F0 and 0F between.
func spread(t *testing.T, x []byte, purpose byte) []byte {
	t.Helper()
	block, err := des.NewTripleDESCipher(append(bytes.Clone(oldMaster), oldMaster[:8]...))
	if err != nil {
		t.Fatal(err)
	}
	in := append(append(append(append([]byte{}, x...), 0xF0, purpose), x...), 0x0F, purpose)
	out := make([]byte, 16)
	block.Encrypt(out[:8], in[:8])
	block.Encrypt(out[8:], in[8:])
	return out
}

// TestExplainSCP02: the classic mistakes of personalisation under SCP02. Its cryptogram
// shows K-ENC alone; a pseudo-random challenge shows K-MAC too.
func TestExplainSCP02(t *testing.T) {
	swap := func(k *cardsim.LegacyKeys, _ [10]byte) { k.ENC, k.MAC = k.MAC, k.ENC }
	for name, tt := range map[string]struct {
		i      byte // of the profile
		change func(*cardsim.LegacyKeys, [10]byte)
		want   string
	}{
		"nothing wrong":         {0x15, func(*cardsim.LegacyKeys, [10]byte) {}, "as-expected"},
		"pseudo-random":         {0x55, func(*cardsim.LegacyKeys, [10]byte) {}, "as-expected"},
		"ENC and MAC swapped":   {0x15, swap, "enc:mac"},
		"swapped, and it shows": {0x55, swap, "keys:mac-enc"},
		"MAC is DEK":            {0x55, func(k *cardsim.LegacyKeys, _ [10]byte) { k.MAC = k.DEK }, "keys:enc-dek"},
		"another MAC":           {0x55, func(k *cardsim.LegacyKeys, _ [10]byte) { k.MAC = bytes.Repeat([]byte{7}, 16) }, "challenge:other-aid-or-random"},
		"wrong i":               {0x15, func(k *cardsim.LegacyKeys, _ [10]byte) { k.I = 0x55 }, "i:pseudo-random"},
		"i without":             {0x55, func(k *cardsim.LegacyKeys, _ [10]byte) { k.I = 0x15 }, "challenge:other-aid-or-random"},
		"keys of nobody":        {0x15, func(k *cardsim.LegacyKeys, _ [10]byte) { k.ENC = bytes.Repeat([]byte{7}, 16) }, "none"},
		"EMV for VISA2": {0x15, func(k *cardsim.LegacyKeys, kdd [10]byte) {
			k.ENC, k.MAC, k.DEK = emvKey(t, kdd, 1), emvKey(t, kdd, 2), emvKey(t, kdd, 3)
		}, "diversification:emv"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, speaking(tt.i, 0x03))
			h.loadOld(1, oldKVN)
			h.enrol("ada", "bob", "cyd")
			h.whole(kms.ProposeInput{
				Issuer: h.issuer, Operation: approval.KeyAllowLegacy, Object: h.oldName(1),
				Params: map[string]string{"until": h.clock().AddDate(0, 0, 30).Format(time.DateOnly), "reason": "cards-expire"},
			})
			kdd := [10]byte{0xE1, 4: 0xE2, 9: 7}
			c := h.cardOf(kdd, func(c *cardsim.Config) {
				c.Legacy = cardsim.PersonaliseLegacy(oldMaster, kdd, oldKVN, tt.i)
				tt.change(&c.Legacy, kdd)
			})
			opened, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", KVN: oldKVN, Profile: "old"})
			h.must(err)
			answer, err := c.Transmit(opened.InitializeUpdate)
			h.must(err)
			in := h.explaining(failed{kdd, opened.InitializeUpdate[5:13], bytes.TrimSuffix(answer, []byte{0x90, 0x00})})
			in.Params["key"], in.Params["profile"] = "old", "old"
			done, err := h.execute(h.approved(in))
			if err != nil || done.Found != tt.want {
				t.Errorf("%q, %v; want %q", done.Found, err, tt.want)
			}
		})
	}
}

// TestExplainARQC asks about cryptograms that another implementation computed (pyemv, see
// derive/emv/testdata), with one thing wrong in the question.
func TestExplainARQC(t *testing.T) {
	mc16 := map[string]string{
		"profile": "mchip-16", "key": "ac", "dki": "01", "psn": "00", "atc": "001C", "un": "ABCDEF12", "arqc": "24CCF3DEE3158C70",
		"data": "00000000999900000000000001248000000000012420990600ABCDEF121800001CA00003220000",
	}
	visa10 := map[string]string{
		"profile": "visa-10", "key": "ac", "dki": "01", "psn": "00", "atc": "001C", "arqc": "29CCA15AE665FA2E",
		"data": "0000000040000000000000000124800004800001241911050152BF45851800001C03A06010",
	}
	for name, tt := range map[string]struct {
		of   map[string]string
		with map[string]string
		want string
	}{
		"nothing wrong":      {mc16, nil, "as-expected"},
		"another CVN":        {mc16, map[string]string{"profile": "mchip-20"}, "session-key:skd"},
		"Visa's CVN 10":      {visa10, nil, "as-expected"},
		"CVN 10 for 18":      {visa10, map[string]string{"profile": "visa-18"}, "session-key:mk/padding:1"},
		"another key index":  {mc16, map[string]string{"dki": "02"}, "dki:01"},
		"another key":        {mc16, map[string]string{"key": "other"}, "key:ac"},
		"PSN":                {mc16, map[string]string{"psn": "01"}, "psn:00"},
		"no PSN is 00":       {mc16, map[string]string{"psn": ""}, "as-expected"},
		"amount altered":     {mc16, map[string]string{"data": "01" + mc16["data"][2:]}, "none"},
		"cryptogram altered": {mc16, map[string]string{"arqc": "24CCF3DEE3158C71"}, "none"},
		"two things":         {mc16, map[string]string{"profile": "mchip-20", "psn": "01"}, "psn:00/session-key:skd"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.loadEMV()
			_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
				Issuer: h.issuer, Name: "other", Usage: key.EMVAC, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: "emv-option-a", KVN: 1,
			}, known{h.token, random(16)})
			h.must(err)
			h.enrol("ada", "bob", "cyd")
			in := kms.ProposeInput{
				Issuer: h.issuer, Operation: approval.CardExplain, Object: "issuers/" + h.issuer + "/cards/1234567890123456FFFF", Params: maps.Clone(tt.of),
			}
			maps.Copy(in.Params, tt.with)
			maps.DeleteFunc(in.Params, func(_, v string) bool { return v == "" })
			done, err := h.execute(h.approved(in))
			if err != nil || done.Found != tt.want {
				t.Errorf("%q, %v; want %q", done.Found, err, tt.want)
			}
			encoded, err := h.ledger.Leaves(h.ctx, 0, 1000)
			h.must(err)
			for _, b := range encoded {
				if strings.Contains(string(b), "1234567890123456") {
					t.Errorf("an entry holds the PAN:\n%s", b)
				}
			}
		})
	}
	t.Run("atc", func(t *testing.T) { explainATC(t, mc16) })
	t.Run("a key half destroyed", func(t *testing.T) {
		h := newHarness(t)
		h.loadEMV()
		h.must(h.token.Destroy(h.ctx, key.ID{Issuer: h.issuer, Name: "smi", Version: 1}.Label(key.Master)))
		h.must(h.changeVersion("smi", 1, func(v *key.Version) { v.Destroying = true }))
		h.enrol("ada", "bob", "cyd")
		params := maps.Clone(mc16)
		params["arqc"] = "24CCF3DEE3158C71"
		done, err := h.execute(h.approved(kms.ProposeInput{
			Issuer: h.issuer, Operation: approval.CardExplain, Object: "issuers/" + h.issuer + "/cards/1234567890123456FFFF", Params: params,
		}))
		if err != nil || done.Found != "none" {
			t.Errorf("%q, %v", done.Found, err)
		}
	})
}

// explainATC: under M/Chip's CVN 20 the session key follows from the counter alone, so
// that a counter that is one off shows.
func explainATC(t *testing.T, of map[string]string) {
	h := newHarness(t)
	h.loadEMV()
	h.enrol("ada", "bob", "cyd")
	params := maps.Clone(of)
	maps.Copy(params, map[string]string{"profile": "mchip-20", "arqc": "CD29615D6452E70E", "atc": "001D"})
	in := kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.CardExplain, Object: "issuers/" + h.issuer + "/cards/1234567890123456FFFF", Params: params,
	}
	if done, err := h.execute(h.approved(in)); err != nil || done.Found != "atc:one-less" {
		t.Errorf("%q, %v", done.Found, err)
	}
	for name, wrong := range map[string]string{
		"dki": "1", "atc": "00", "arqc": "24CC", "un": "AB", "data": "xyz", "profile": "nobody", "psn": "1", "more": "x",
	} {
		in.Params = maps.Clone(of)
		in.Params[name] = wrong
		if _, err := h.propose("ada", in); fault.CodeOf(err) != fault.InvalidInput && fault.CodeOf(err) != fault.NotFound {
			t.Errorf("%s=%s: %v", name, wrong, err)
		}
	}
	in.Params = of
	in.Object = "issuers/" + h.issuer + "/cards/12345678901FFFFFFFFF"
	if _, err := h.propose("ada", in); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("a PAN of 11 digits: %v", err)
	}
}
