package kms_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/softhsm/cardsim"
)

// cmac is AES-CMAC, written from RFC 4493 for these tests alone.
func cmac(k []byte, parts ...[]byte) []byte {
	b, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	double := func(in []byte) []byte {
		out, carry := make([]byte, 16), byte(0)
		for i := 15; i >= 0; i-- {
			out[i], carry = in[i]<<1|carry, in[i]>>7
		}
		out[15] ^= carry * 0x87
		return out
	}
	sub := make([]byte, 16)
	b.Encrypt(sub, sub)
	sub = double(sub)
	m := bytes.Join(parts, nil)
	if len(m) == 0 || len(m)%16 != 0 {
		m, sub = append(m, 0x80), double(sub)
		m = append(m, make([]byte, (16-len(m)%16)%16)...)
	}
	for i, s := range sub {
		m[len(m)-16+i] ^= s
	}
	cipher.NewCBCEncrypter(b, make([]byte, 16)).CryptBlocks(m, m)
	return m[len(m)-16:]
}

// wire is a session that was recorded, and what its card computed with.
type wire struct {
	failed
	sENC, sMAC, sRMAC []byte
	chaining          [][]byte // after each command
	commands          [][]byte
	responses         [][]byte
	size              int // of a MAC
}

// record has a card answer GET DATA, SELECT and GET DATA on a channel of the service.
func (h *harness) record(level scp03.Level, kdd [10]byte, adjust ...func(*cardsim.Config)) *wire {
	h.t.Helper()
	card := h.cardOf(kdd, adjust...)
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	h.must(err)
	answer, err := card.Transmit(o.InitializeUpdate)
	h.must(err)
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: o.ID, Response: answer, Level: &level})
	h.must(err)
	wrapped, err := h.service.Wrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: o.ID, APDUs: [][]byte{
		unhex("80CA006600"), unhex("00A4040008A00000015100000000"), unhex("80CA00E000"),
	}})
	h.must(err)
	n := int(o.InitializeUpdate[4])
	w := &wire{failed: failed{kdd, o.InitializeUpdate[5 : 5+n], bytes.TrimSuffix(answer, []byte{0x90, 0x00})}, size: n}
	set, err := cardsim.Personalise(h.master, kdd, kvn, 16)
	h.must(err)
	session := func(k []byte, constant byte) []byte { // [AmdD], Section 4.1.5
		return cmac(k, make([]byte, 11), []byte{constant, 0x00, 0x00, 0x80, 0x01}, w.host, w.answer[13:13+n])
	}
	w.sENC, w.sMAC, w.sRMAC = session(set.ENC, 4), session(set.MAC, 6), session(set.MAC, 7)
	w.commands = append([][]byte{a.ExternalAuthenticate}, wrapped...)
	w.responses, err = send(card, w.commands)
	h.must(err)
	last := make([]byte, 16)
	for i, c := range w.commands {
		last = cmac(w.sMAC, last, c[:5+int(c[4])-n])
		w.chaining = append(w.chaining, last)
		if got := c[5+int(c[4])-n:][:n]; !bytes.Equal(got, last[:n]) {
			h.t.Fatalf("the MAC of command %d is %X, want %X", i, got, last[:n])
		}
		if r := w.responses[i]; !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
			h.t.Fatalf("command %d: %X", i, r)
		}
	}
	return w
}

// data returns those of a response.
func (w *wire) data(n int) []byte { return w.responses[n][:len(w.responses[n])-2-w.size] }

// plain decrypts those of a response of level 33: [AmdD], Section 6.2.7.
func (w *wire) plain(n int) []byte {
	b, err := aes.NewCipher(w.sENC)
	if err != nil {
		panic(err)
	}
	icv, out := []byte{0x80, 15: byte(n)}, make([]byte, len(w.data(n)))
	b.Encrypt(icv, icv)
	cipher.NewCBCDecrypter(b, icv).CryptBlocks(out, w.data(n))
	return out[:bytes.LastIndexByte(out, 0x80)]
}

// respond has the card answer command n with data, a MAC of size bytes and a status word.
func (w *wire) respond(n int, data []byte, mac []byte, sw ...byte) {
	w.responses[n] = slices.Concat(data, mac, sw)
}

// remac gives the last command another MAC over what stands before it.
func (w *wire) remac(key, chaining []byte, change func(covered []byte) []byte) {
	n := len(w.commands) - 1
	c := bytes.Clone(w.commands[n])
	end := 5 + int(c[4]) - w.size
	copy(c[end:], cmac(key, chaining, change(bytes.Clone(c[:end])))[:w.size])
	w.commands[n] = c
	w.responses[n] = []byte{0x69, 0x82}
}

func (w *wire) transcript() string {
	var b strings.Builder
	for i, c := range w.commands {
		fmt.Fprintf(&b, "> %X\n", c)
		if i < len(w.responses) && w.responses[i] != nil {
			fmt.Fprintf(&b, "< %x\n", w.responses[i])
		}
	}
	return b.String()
}

// explainingMAC asks about a transcript.
func (h *harness) explainingMAC(w *wire, transcript string) kms.ProposeInput {
	in := h.explaining(w.failed)
	digest := sha256.Sum256([]byte(transcript))
	in.Document, in.Params["sha256"] = transcript, hex.EncodeToString(digest[:])
	return in
}

// TestExplainMAC: MACs of cards and hosts that compute in another way are named, and
// nothing but that.
func TestExplainMAC(t *testing.T) {
	same := func(b []byte) []byte { return b }
	zero, ok := make([]byte, 16), []byte{0x90, 0x00}
	half := func(b []byte) []byte { return append(bytes.Clone(b[:8]), zero[:8]...) }
	cut := func(w *wire, n int) { w.commands, w.responses = w.commands[:n], w.responses[:n] }
	s16 := byte(0x71)
	for name, tt := range map[string]struct {
		level  scp03.Level
		i      byte
		change func(*wire)
		want   string
	}{
		"nothing wrong":             {0x11, 0, func(*wire) {}, "as-expected"},
		"nothing wrong, encrypted":  {0x33, 0, func(*wire) {}, "as-expected"},
		"nothing wrong, S16":        {0x33, s16, func(*wire) {}, "as-expected"},
		"no R-MAC, so none checked": {0x03, 0, func(w *wire) { w.respond(1, nil, nil, 0x90, 0x00) }, "as-expected"},
		"responses not recorded":    {0x11, 0, func(w *wire) { w.responses = nil }, "as-expected"},
		"refused, and right":        {0x11, 0, func(w *wire) { w.responses[3] = []byte{0x69, 0x82} }, "as-expected"},

		"S-MAC for S-RMAC": {0x11, 0, func(w *wire) {
			w.respond(3, w.data(3), cmac(w.sMAC, w.chaining[3], w.data(3), ok)[:8], 0x90, 0x00)
		}, "r-mac:3/key:s-mac"},
		"R-MAC chains from zero": {0x11, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, zero, w.data(1), ok)[:8], 0x90, 0x00)
		}, "r-mac:1/chaining:zero"},
		"R-MAC chains from EXTERNAL AUTHENTICATE": {0x11, 0, func(w *wire) {
			w.respond(3, w.data(3), cmac(w.sRMAC, w.chaining[0], w.data(3), ok)[:8], 0x90, 0x00)
		}, "r-mac:3/chaining:external-authenticate"},
		"the response before": {0x11, 0, func(w *wire) { w.responses[3] = w.responses[2] }, "r-mac:3/chaining:previous"},
		"R-MAC chains from what was sent": {0x11, 0, func(w *wire) {
			w.respond(2, w.data(2), cmac(w.sRMAC, half(w.chaining[2]), w.data(2), ok)[:8], 0x90, 0x00)
		}, "r-mac:2/chaining:truncated"},
		"no status word": {0x11, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, w.chaining[1], w.data(1))[:8], 0x90, 0x00)
		}, "r-mac:1/status-word:missing"},
		"a warning MACed as success": {0x11, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, w.chaining[1], w.data(1), ok)[:8], 0x63, 0x10)
		}, "r-mac:1/status-word:9000"},
		"plain data under the R-MAC": {0x33, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, w.chaining[1], w.plain(1), ok)[:8], 0x90, 0x00)
		}, "r-mac:1/data:plain"},
		"data not encrypted": {0x33, 0, func(w *wire) {
			w.respond(1, []byte{1, 2, 3}, cmac(w.sRMAC, w.chaining[1], []byte{1, 2, 3}, ok)[:8], 0x90, 0x00)
		}, "r-mac:1/decryption:fails"},
		"a whole MAC in S8": {0x11, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, w.chaining[1], w.data(1), ok), 0x90, 0x00)
		}, "r-mac:1/mac-length:16"},
		"half a MAC in S16": {0x11, s16, func(w *wire) {
			w.respond(2, nil, cmac(w.sRMAC, w.chaining[2], ok)[:8], 0x90, 0x00)
		}, "r-mac:2/mac-length:8"},
		"half a chaining value in S16": {0x11, s16, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sRMAC, half(w.chaining[1]), w.data(1), ok), 0x90, 0x00)
		}, "r-mac:1/chaining:truncated"},
		"an error with a MAC": {0x11, 0, func(w *wire) {
			w.respond(1, nil, cmac(w.sRMAC, w.chaining[1], []byte{0x6A, 0x88})[:8], 0x6A, 0x88)
		}, "r-mac:1/mac:on-error"},
		"no MAC":           {0x11, 0, func(w *wire) { w.respond(1, []byte{7}, nil, 0x90, 0x00) }, "r-mac:1/mac:missing"},
		"a byte altered":   {0x11, 0, func(w *wire) { w.responses[1][0] ^= 1 }, "r-mac:1/none"},
		"the first of two": {0x11, 0, func(w *wire) { w.responses[2][0] ^= 1; w.responses[3][0] ^= 1 }, "r-mac:2/none"},
		"two things": {0x11, 0, func(w *wire) {
			w.respond(1, w.data(1), cmac(w.sMAC, zero, w.data(1), ok)[:8], 0x90, 0x00)
		}, "r-mac:1/key:s-mac/chaining:zero"},

		"S-RMAC for S-MAC":       {0x11, 0, func(w *wire) { w.remac(w.sRMAC, w.chaining[2], same) }, "c-mac:3/key:s-rmac"},
		"C-MAC chains from zero": {0x11, 0, func(w *wire) { w.remac(w.sMAC, zero, same) }, "c-mac:3/chaining:zero"},
		"C-MAC never chains on":  {0x01, 0, func(w *wire) { w.remac(w.sMAC, w.chaining[0], same) }, "c-mac:3/chaining:external-authenticate"},
		"a command was lost":     {0x01, 0, func(w *wire) { w.remac(w.sMAC, w.chaining[1], same) }, "c-mac:3/chaining:previous"},
		"C-MAC chains from what was sent": {0x01, 0, func(w *wire) {
			w.remac(w.sMAC, half(w.chaining[2]), same)
		}, "c-mac:3/chaining:truncated"},
		"Lc without MAC": {0x03, 0, func(w *wire) {
			w.remac(w.sMAC, w.chaining[2], func(b []byte) []byte { return b[:4] })
		}, "c-mac:3/lc:without-mac"},
		"Lc of no data": {0x03, 0, func(w *wire) {
			w.remac(w.sMAC, w.chaining[2], func(b []byte) []byte { return append(b[:4], 0) })
		}, "c-mac:3/lc:zero"},
		"Lc without MAC, and data": {0x01, 0, func(w *wire) {
			cut(w, 3)
			w.remac(w.sMAC, w.chaining[1], func(b []byte) []byte { b[4] -= 8; return b })
		}, "c-mac:2/lc:without-mac"},
		"CLA unsecured": {0x01, 0, func(w *wire) {
			w.remac(w.sMAC, w.chaining[2], func(b []byte) []byte { b[0] &^= 4; return b })
		}, "c-mac:3/cla:unsecured"},
		"CLA with a logical channel": {0x01, 0, func(w *wire) {
			w.commands[3][0] |= 1
			w.remac(w.sMAC, w.chaining[2], same)
		}, "c-mac:3/cla:with-channel"},
		"Le covered": {0x01, 0, func(w *wire) {
			w.remac(w.sMAC, w.chaining[2], func(b []byte) []byte { return append(b, 0) })
		}, "c-mac:3/le:covered"},
		"MAC before encryption": {0x03, 0, func(w *wire) {
			cut(w, 3)
			w.remac(w.sMAC, w.chaining[1], func(b []byte) []byte { return append(append(b[:4], 16), isdAID...) })
		}, "c-mac:2/data:plain"},
		"data of another counter": {0x03, 0, func(w *wire) {
			cut(w, 3)
			w.commands[2][5] ^= 1
			w.remac(w.sMAC, w.chaining[1], same)
		}, "c-mac:2/decryption:fails"},
		"EXTERNAL AUTHENTICATE": {0x01, 0, func(w *wire) { cut(w, 1); w.remac(w.sRMAC, zero, same) }, "c-mac:0/key:s-rmac"},
		"level altered":         {0x01, 0, func(w *wire) { w.commands[0][2] = 0x11 }, "c-mac:0/none"},
		"another session":       {0x01, 0, func(w *wire) { w.host[0] ^= 1 }, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			i := max(tt.i, 0x70)
			h := newHarness(t, func(h *harness) { h.profile.I = i })
			h.enrol("ada", "bob", "cyd")
			kdd := [10]byte{0xE1, 0xE2, 0xE3, 9: 5}
			w := h.record(tt.level, kdd, func(c *cardsim.Config) { c.I = i })
			tt.change(w)
			h.finds(h.explainingMAC(w, w.transcript()), tt.want, append([][]byte{kdd[:], w.sENC, w.sMAC, w.sRMAC, w.chaining[1]}, w.commands...)...)
		})
	}
}

// finds has a question answered, and looks that the log holds the answer and no value.
func (h *harness) finds(question kms.ProposeInput, want string, values ...[]byte) {
	h.t.Helper()
	done, err := h.execute(h.approved(question))
	if err != nil || done.Found != want {
		h.t.Errorf("%q, %v; want %q", done.Found, err, want)
	}
	if e := h.lastEntry(); e.Operation != approval.CardExplain || e.Detail["found"] != want || e.Card == "" {
		h.t.Errorf("%+v", e)
	}
	h.logHoldsNone(values...)
}

// logHoldsNone looks for values in the log.
func (h *harness) logHoldsNone(values ...[]byte) {
	h.t.Helper()
	encoded, err := h.ledger.Leaves(h.ctx, 0, 1000)
	h.must(err)
	for _, b := range encoded {
		for _, v := range values {
			if bytes.Contains(b, v) || strings.Contains(strings.ToUpper(string(b)), fmt.Sprintf("%X", v)) {
				h.t.Errorf("an entry holds %X:\n%s", v, b)
			}
		}
	}
}

// TestExplainMACWrongKVN: what the cryptogram tells of the keys comes first.
func TestExplainMACWrongKVN(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	w := h.record(0x11, [10]byte{9: 9})
	w.answer[10] = 0x31
	w.respond(1, w.data(1), cmac(w.sRMAC, w.chaining[1], w.data(1))[:8], 0x90, 0x00)
	done, err := h.execute(h.approved(h.explainingMAC(w, w.transcript())))
	if err != nil || done.Found != "kvn:30/r-mac:1/status-word:missing" {
		t.Errorf("%q, %v", done.Found, err)
	}
}

// TestExplainMACInput: nothing that is no transcript, is too long, or that officers
// would not have signed.
func TestExplainMACInput(t *testing.T) {
	h := newHarness(t, speaking(0x15, 0x03))
	h.enrol("ada", "bob", "cyd")
	kdd := [10]byte{0xE1, 0xE2, 0xE3, 9: 5}
	w := h.record(0x11, kdd)
	good := w.transcript()
	lines := strings.SplitAfter(good, "\n")
	for name, transcript := range map[string]string{
		"no hexadecimal":                   "> xyz\n",
		"half a byte":                      lines[0] + "< 900\n",
		"no direction":                     strings.TrimPrefix(good, "> "),
		"another direction":                "= " + strings.TrimPrefix(good, "> "),
		"a line of three words":            strings.Replace(good, "\n", " 00\n", 1),
		"an empty line":                    "\n" + good,
		"a response first":                 "< 9000\n" + good,
		"two responses":                    lines[0] + lines[1] + lines[1],
		"no APDU":                          lines[0] + "> 8450\n",
		"no response":                      lines[0] + "< 90\n",
		"another command first":            strings.Join(lines[2:], ""),
		"a level of none":                  strings.Replace(good, "> 848211", "> 848202", 1),
		"commands at level 00":             strings.Replace(good, "> 848211", "> 848200", 1),
		"EXTERNAL AUTHENTICATE in clear":   strings.Replace(good, "> 84", "> 80", 1),
		"EXTERNAL AUTHENTICATE of S16":     "> 8482110020" + strings.Repeat("00", 32) + "\n",
		"a command in clear":               lines[0] + "> 80CA006600\n",
		"a command too short for its MAC":  lines[0] + "> 84CA0066020102\n",
		"a further interindustry class":    lines[0] + "> C4CA0066080102030405060708\n",
		"seventeen commands":               lines[0] + strings.Repeat(lines[2], 16),
		"more bytes than a transcript has": good + strings.Repeat(" ", 16<<10),
		"the card's name":                  lines[0] + fmt.Sprintf("< %X9000\n", kdd),
		"the card's name in a command":     lines[0] + fmt.Sprintf("> 84E2000012%X0102030405060708\n", kdd),
	} {
		_, err := h.propose("ada", h.explainingMAC(w, transcript))
		h.want(name, err, fault.InvalidInput)
	}
	for name, change := range map[string]func(*kms.ProposeInput){
		"nothing signed":           func(in *kms.ProposeInput) { delete(in.Params, "sha256") },
		"no transcript":            func(in *kms.ProposeInput) { in.Document = "" },
		"another transcript":       func(in *kms.ProposeInput) { in.Document += "> 84CA0066080102030405060708\n" },
		"a value to try":           func(in *kms.ProposeInput) { in.Params["mac"] = "0011223344556677" },
		"a cut answer":             func(in *kms.ProposeInput) { in.Params["answer"] = in.Params["answer"][2:] },
		"an application's as well": func(in *kms.ProposeInput) { in.Params["arqc"] = "0011223344556677" },
		"of an operation of none":  func(in *kms.ProposeInput) { in.Operation = approval.CardRelease },
	} {
		in := h.explainingMAC(w, good)
		change(&in)
		_, err := h.propose("ada", in)
		h.want(name, err, fault.InvalidInput)
	}
	in := h.explainingMAC(w, good)
	in.Params["profile"] = "old"
	in.Params["answer"] = "2002" + strings.Repeat("00", 16)
	_, err := h.propose("ada", in)
	h.want("SCP02", err, fault.InvalidInput)
	_, err = h.service.Propose(h.ctx, h.req(), h.explainingMAC(w, good))
	h.want("an update server", err, fault.Forbidden)
	if _, err := h.propose("ada", h.explainingMAC(w, good)); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}
