package kms_test

import (
	"bytes"
	"crypto/cipher"
	"crypto/des"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

// tdes is 3DES under a key of 16 bytes, written for these tests alone.
func tdes(k []byte) cipher.Block {
	b, err := des.NewTripleDESCipher(slices.Concat(k, k[:8]))
	if err != nil {
		panic(err)
	}
	return b
}

// sessionTDES is a session key of SCP02: [GPCS], Section E.4.1.
func sessionTDES(k []byte, constant byte, counter []byte) []byte {
	out := slices.Concat([]byte{0x01, constant}, counter, make([]byte, 12))
	cipher.NewCBCEncrypter(tdes(k), make([]byte, 8)).CryptBlocks(out, out)
	return out
}

// pad80 is the padding of ISO/IEC 9797-1, method 2.
func pad80(parts ...[]byte) []byte {
	m := append(bytes.Join(parts, nil), 0x80)
	return append(m, make([]byte, (8-len(m)%8)%8)...)
}

// single is DES of one block under the left half of a key.
func single(k, in []byte) []byte {
	b, err := des.NewCipher(k[:8])
	if err != nil {
		panic(err)
	}
	out := make([]byte, 8)
	b.Encrypt(out, in)
	return out
}

// retail is the retail MAC: [9797-1], MAC algorithm 3.
func retail(k, icv []byte, parts ...[]byte) []byte {
	x := bytes.Clone(icv)
	m := pad80(parts...)
	for ; len(m) > 0; m = m[8:] {
		for i := range x {
			x[i] ^= m[i]
		}
		if len(m) > 8 {
			x = single(k, x)
		}
	}
	tdes(k).Encrypt(x, x)
	return x
}

// wire02 is a session of SCP02 that was recorded, and what its card computed with.
type wire02 struct {
	wire
	i       byte
	keys    cardsim.LegacyKeys
	icv     [][]byte // of each command, and of one more, not encrypted
	counter []byte
}

// record02 has a card of SCP02 answer GET DATA, SELECT and GET DATA on a channel of the
// service. It is ended in order as far as it can be.
func (h *harness) record02(i byte, level scp03.Level, kdd [10]byte) *wire02 {
	h.t.Helper()
	keys := cardsim.PersonaliseLegacy(oldMaster, kdd, oldKVN, i)
	card := h.cardOf(kdd, func(c *cardsim.Config) { c.Legacy = keys })
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", KVN: oldKVN, Profile: "old"})
	h.must(err)
	answer, err := card.Transmit(o.InitializeUpdate)
	h.must(err)
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: o.ID, Response: answer, Level: &level})
	h.must(err)
	wrapped, err := h.wrapOn(o.ID, unhex("80CA006600"), unhex("00A4040008A00000015100000000"), unhex("80CA00E000"))
	h.must(err)
	w := &wire02{i: i, keys: keys, counter: answer[12:14]}
	w.failed, w.size = failed{kdd, o.InitializeUpdate[5:13], bytes.TrimSuffix(answer, []byte{0x90, 0x00})}, 8
	w.sENC, w.sMAC, w.sRMAC = sessionTDES(keys.ENC, 0x82, w.counter), sessionTDES(keys.MAC, 0x01, w.counter), sessionTDES(keys.MAC, 0x02, w.counter)
	w.commands = append([][]byte{a.ExternalAuthenticate}, wrapped...)
	w.responses, err = send(card, w.commands)
	h.must(err)
	w.icv = [][]byte{make([]byte, 8)}
	for n, c := range w.commands {
		if r := w.responses[n]; !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
			h.t.Fatalf("command %d: %X", n, r)
		}
		if n > 0 && level&scp03.CMAC == 0 {
			break
		}
		end := 5 + int(c[4]) - 8
		w.icv = append(w.icv, c[end:][:8])
		if encrypted := n > 0 && end > 5 && level&scp03.CDecryption != 0; encrypted {
			continue
		}
		if want := retail(w.sMAC, w.used(n), c[:end]); !bytes.Equal(w.icv[n+1], want) {
			h.t.Fatalf("the MAC of command %d is %X, want %X", n, w.icv[n+1], want)
		}
	}
	if level&scp03.RMAC != 0 {
		for n := 1; n < 4; n++ {
			if mac := retail(w.sRMAC, w.ricv(n), w.plain(n), w.answered(n), []byte{0x90, 0x00}); !bytes.HasSuffix(w.responses[n][:len(w.responses[n])-2], mac) {
				h.t.Fatalf("the MAC of response %d is not %X: %X", n, mac, w.responses[n])
			}
		}
	}
	return w
}

// encrypted is an ICV as it is encrypted: [GPCS], Section E.3.4.
func (w *wire02) encrypted(icv []byte) []byte { return single(w.sMAC, icv) }

// used is the ICV that goes into the MAC of command n.
func (w *wire02) used(n int) []byte {
	if n > 0 && w.i&0x10 != 0 {
		return w.encrypted(w.icv[n])
	}
	return w.icv[n]
}

// plain is what an R-MAC has of command n: [GPCS], Section E.4.5.
func (w *wire02) plain(n int) []byte {
	return [][]byte{nil, unhex("80CA006600"), unhex("00A4040008A000000151000000"), unhex("80CA00E000")}[n]
}

// ricv is the ICV of response n, not counting what was changed of it.
func (w *wire02) ricv(n int) []byte {
	if n == 1 {
		return w.icv[1]
	}
	r := w.responses[n-1]
	return r[len(r)-10 : len(r)-2]
}

// answered is the length of the data of a response, and these.
func (w *wire02) answered(n int) []byte { return append([]byte{byte(len(w.data(n)))}, w.data(n)...) }

// reply gives response n another R-MAC over some parts, and a status word.
func (w *wire02) reply(n int, k, icv []byte, sw []byte, parts ...[]byte) {
	w.respond(n, w.data(n), retail(k, icv, parts...), sw...)
}

// remac gives the last command another MAC over what stands before it.
func (w *wire02) remac(k, icv []byte, change func(covered []byte) []byte) {
	n := len(w.commands) - 1
	c := bytes.Clone(w.commands[n])
	end := 5 + int(c[4]) - 8
	copy(c[end:], retail(k, icv, change(bytes.Clone(c[:end]))))
	w.commands[n], w.responses[n] = c, []byte{0x69, 0x82}
}

// cut leaves n commands.
func (w *wire02) cut(n int) { w.commands, w.responses = w.commands[:n], w.responses[:n] }

// proves gives the card's answer the cryptogram of another K-ENC, as sENC.
func (w *wire02) proves(k []byte) {
	m := pad80(w.host, w.answer[12:20])
	cipher.NewCBCEncrypter(tdes(sessionTDES(k, 0x82, w.counter)), make([]byte, 8)).CryptBlocks(m, m)
	w.answer = slices.Concat(w.answer[:20], m[16:])
}

// explainingOld asks about a transcript of SCP02, or without one about the answer.
func (h *harness) explainingOld(w *wire02, transcript string) kms.ProposeInput {
	in := h.explaining(w.failed)
	if transcript != "" {
		in = h.explainingMAC(&w.wire, transcript)
	}
	in.Params["key"], in.Params["profile"] = "old", "old"
	return in
}

// newExplained is a service whose officers explain cards of SCP02.
func newExplained(t *testing.T, i byte, level scp03.Level) *harness {
	h := newHarness(t, speaking(i, level))
	h.loadOld(1, oldKVN)
	h.enrol("ada", "bob", "cyd")
	h.whole(kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.KeyAllowLegacy, Object: h.oldName(1),
		Params: map[string]string{"until": h.clock().AddDate(0, 0, 30).Format(time.DateOnly), "reason": "cards-expire"},
	})
	return h
}

// explained02 is what is changed of a session, and what is said of it.
type explained02 struct {
	name   string
	change func(*wire02)
	want   string
}

// runExplained02 asks about one card for each case, so that no limit is met.
func runExplained02(t *testing.T, i byte, level scp03.Level, cases []explained02) {
	h := newExplained(t, i, level)
	for n, tt := range cases {
		t.Run(fmt.Sprintf("i=%02X level=%02X %s", i, byte(level), tt.name), func(t *testing.T) {
			defer func(outer *testing.T) { h.t = outer }(h.t)
			h.t = t
			kdd := [10]byte{0xE1, 0xE2, 0xE3, 0xE4, 9: byte(n)}
			w := h.record02(i, level, kdd)
			tt.change(w)
			h.finds(h.explainingOld(w, w.transcript()), tt.want, append([][]byte{kdd[:], w.sENC, w.sMAC, w.sRMAC, w.icv[1]}, w.commands...)...)
		})
	}
}

func same(b []byte) []byte { return b }

// unmodified is what a C-MAC is over that is over the unmodified command.
func unmodified(b []byte) []byte {
	b[0] &^= 4
	if b[4] -= 8; b[4] == 0 {
		return b[:4]
	}
	return b
}

// TestExplainMAC02: C-MACs of SCP02 that are computed in another way are named, and
// nothing but that.
func TestExplainMAC02(t *testing.T) {
	zero := make([]byte, 8)
	runExplained02(t, 0x15, 0x01, []explained02{
		{"nothing wrong", func(*wire02) {}, "as-expected"},
		{"EXTERNAL AUTHENTICATE alone", func(w *wire02) { w.cut(1) }, "as-expected"},
		{"responses not recorded", func(w *wire02) { w.responses = nil }, "as-expected"},
		{"refused, and right", func(w *wire02) { w.responses[3] = []byte{0x69, 0x82} }, "as-expected"},
		{"S-RMAC for S-MAC", func(w *wire02) { w.remac(w.sRMAC, single(w.sRMAC, w.icv[3]), same) }, "c-mac:3/key:s-rmac"},
		{"ICV not encrypted", func(w *wire02) { w.remac(w.sMAC, w.icv[3], same) }, "c-mac:3/icv:not-encrypted"},
		{"ICV zero, encrypted", func(w *wire02) { w.remac(w.sMAC, w.encrypted(zero), same) }, "c-mac:3/icv:zero"},
		{"ICV zero", func(w *wire02) { w.remac(w.sMAC, zero, same) }, "c-mac:3/icv:zero/icv:not-encrypted"},
		{"never chains on", func(w *wire02) { w.remac(w.sMAC, w.encrypted(w.icv[1]), same) }, "c-mac:3/icv:external-authenticate"},
		{"a command was lost", func(w *wire02) { w.remac(w.sMAC, w.encrypted(w.icv[2]), same) }, "c-mac:3/icv:previous"},
		{"the first ICV encrypted", func(w *wire02) { w.cut(1); w.remac(w.sMAC, w.encrypted(zero), same) }, "c-mac:0/icv:encrypted"},
		{"unmodified", func(w *wire02) { w.cut(3); w.remac(w.sMAC, w.used(2), unmodified) }, "c-mac:2/apdu:unmodified"},
		{"unmodified, no data", func(w *wire02) { w.remac(w.sMAC, w.used(3), unmodified) }, "c-mac:3/apdu:unmodified"},
		{"unmodified, from the first on", func(w *wire02) { w.cut(1); w.remac(w.sMAC, zero, unmodified) }, "c-mac:0/apdu:unmodified"},
		{"unmodified, Lc of no data", func(w *wire02) {
			w.remac(w.sMAC, w.used(3), func(b []byte) []byte { return append(unmodified(b), 0) })
		}, "c-mac:3/lc:zero/cla:unsecured"},
		{"Lc without MAC", func(w *wire02) {
			w.cut(3)
			w.remac(w.sMAC, w.used(2), func(b []byte) []byte { b[4] -= 8; return b })
		}, "c-mac:2/lc:without-mac"},
		{"no Lc", func(w *wire02) {
			w.remac(w.sMAC, w.used(3), func(b []byte) []byte { return b[:4] })
		}, "c-mac:3/lc:without-mac"},
		{"Lc of no data", func(w *wire02) {
			w.remac(w.sMAC, w.used(3), func(b []byte) []byte { return append(b[:4], 0) })
		}, "c-mac:3/lc:zero"},
		{"CLA unsecured", func(w *wire02) {
			w.remac(w.sMAC, w.used(3), func(b []byte) []byte { b[0] &^= 4; return b })
		}, "c-mac:3/cla:unsecured"},
		{"a logical channel", func(w *wire02) { w.commands[3][0] |= 1 }, "as-expected"},
		{"CLA with a logical channel", func(w *wire02) {
			w.commands[3][0] |= 1
			w.remac(w.sMAC, w.used(3), same)
		}, "c-mac:3/cla:with-channel"},
		{"unmodified, with a logical channel", func(w *wire02) {
			w.commands[3][0] |= 2
			w.remac(w.sMAC, w.used(3), unmodified)
		}, "c-mac:3/apdu:unmodified/cla:with-channel"},
		{"Le covered", func(w *wire02) {
			w.commands[3] = append(w.commands[3][:13:13], 0)
			w.remac(w.sMAC, w.used(3), func(b []byte) []byte { return append(b, 0) })
		}, "c-mac:3/le:covered"},
		{"two things", func(w *wire02) {
			w.remac(w.sRMAC, w.icv[3], func(b []byte) []byte { return b[:4] })
		}, "c-mac:3/key:s-rmac/icv:not-encrypted/lc:without-mac"},
		{"a byte altered", func(w *wire02) { w.commands[2][6] ^= 1 }, "c-mac:2/none"},
		{"the first of two", func(w *wire02) { w.commands[1][12] ^= 1; w.remac(w.sRMAC, w.icv[3], same) }, "c-mac:1/none"},
		{"level altered", func(w *wire02) { w.cut(1); w.commands[0][2] = 0x03 }, "c-mac:0/none"},
		{"another session", func(w *wire02) { w.host[0] ^= 1 }, "none"},
		{"another counter", func(w *wire02) { w.answer[13] ^= 1 }, "none"},
		{"another KVN", func(w *wire02) { w.answer[10] = 0x21; w.remac(w.sMAC, w.icv[3], same) }, "kvn:20/c-mac:3/icv:not-encrypted"},

		{"K-DEK for K-MAC", func(w *wire02) {
			w.cut(1)
			w.remac(sessionTDES(w.keys.DEK, 0x01, w.counter), zero, same)
		}, "keys:enc-dek"},
		{"K-ENC for K-MAC, and unmodified", func(w *wire02) {
			w.cut(1)
			w.remac(sessionTDES(w.keys.ENC, 0x01, w.counter), zero, unmodified)
		}, "keys:enc-enc/c-mac:0/apdu:unmodified"},
		{"K-ENC and K-MAC exchanged", func(w *wire02) {
			w.cut(1)
			w.proves(w.keys.MAC)
			w.remac(sessionTDES(w.keys.ENC, 0x01, w.counter), zero, same)
		}, "keys:mac-enc"},
		{"K-MAC for K-ENC, and another for K-MAC", func(w *wire02) {
			w.cut(1)
			w.proves(w.keys.MAC)
			w.commands[0][20] ^= 1
		}, "enc:mac/c-mac:0/none"},
	})
	runExplained02(t, 0x05, 0x01, []explained02{
		{"nothing wrong", func(*wire02) {}, "as-expected"},
		{"ICV encrypted", func(w *wire02) { w.remac(w.sMAC, w.encrypted(w.icv[3]), same) }, "c-mac:3/icv:encrypted"},
		{"ICV zero", func(w *wire02) { w.remac(w.sMAC, zero, same) }, "c-mac:3/icv:zero"},
	})
	runExplained02(t, 0x55, 0x01, []explained02{
		{"nothing wrong", func(*wire02) {}, "as-expected"},
		{"ICV not encrypted", func(w *wire02) { w.remac(w.sMAC, w.icv[3], same) }, "c-mac:3/icv:not-encrypted"},
	})
	runExplained02(t, 0x15, 0x00, []explained02{
		{"EXTERNAL AUTHENTICATE", func(w *wire02) { w.cut(1) }, "as-expected"},
		{"S-RMAC for S-MAC", func(w *wire02) { w.cut(1); w.remac(w.sRMAC, zero, same) }, "c-mac:0/key:s-rmac"},
	})
}

// TestExplainMAC02Encrypted: what a MAC is over that is sent encrypted nobody knows here.
// Before it, and of commands without data, MACs are explained.
func TestExplainMAC02Encrypted(t *testing.T) {
	zero := make([]byte, 8)
	runExplained02(t, 0x15, 0x03, []explained02{
		{"data encrypted", func(*wire02) {}, "c-mac:2/mac:not-checked"},
		{"data encrypted, and altered", func(w *wire02) { w.commands[2][6] ^= 1 }, "c-mac:2/mac:not-checked"},
		{"no data", func(w *wire02) { w.cut(2) }, "as-expected"},
		{"no data, and wrong", func(w *wire02) { w.cut(2); w.remac(w.sMAC, w.icv[1], same) }, "c-mac:1/icv:not-encrypted"},
		{"EXTERNAL AUTHENTICATE", func(w *wire02) { w.cut(1); w.remac(w.sRMAC, zero, same) }, "c-mac:0/key:s-rmac"},
	})
	runExplained02(t, 0x75, 0x13, []explained02{
		{"data encrypted", func(*wire02) {}, "c-mac:2/mac:not-checked"},
		{"no data", func(w *wire02) { w.cut(2) }, "as-expected"},
		{"no data, and a wrong response", func(w *wire02) { w.responses[1][0] ^= 1 }, "r-mac:1/none"},
	})
}

// TestExplainRMAC02: the same of R-MACs.
func TestExplainRMAC02(t *testing.T) {
	zero, ok := make([]byte, 8), []byte{0x90, 0x00}
	runExplained02(t, 0x35, 0x11, []explained02{
		{"nothing wrong", func(*wire02) {}, "as-expected"},
		{"responses not recorded", func(w *wire02) { w.responses = nil }, "as-expected"},
		{"a response not recorded", func(w *wire02) { w.responses[1] = nil }, "r-mac:2/mac:not-checked"},
		{"a response not recorded, and a bare error", func(w *wire02) { w.responses[2] = nil; w.responses[3] = []byte{0x69, 0x82} }, "as-expected"},
		{"an error with a MAC", func(w *wire02) {
			w.respond(3, nil, retail(w.sRMAC, w.ricv(3), w.plain(3), []byte{0}, []byte{0x6A, 0x88}), 0x6A, 0x88)
		}, "as-expected"},
		{"a bare error", func(w *wire02) { w.responses[3] = []byte{0x6A, 0x88} }, "as-expected"},
		{"a warning", func(w *wire02) {
			w.reply(3, w.sRMAC, w.ricv(3), []byte{0x63, 0x10}, w.plain(3), w.answered(3), []byte{0x63, 0x10})
		}, "as-expected"},
		{"S-MAC for S-RMAC", func(w *wire02) { w.reply(2, w.sMAC, w.ricv(2), ok, w.plain(2), w.answered(2), ok) }, "r-mac:2/key:s-mac"},
		{"ICV zero", func(w *wire02) { w.reply(1, w.sRMAC, zero, ok, w.plain(1), w.answered(1), ok) }, "r-mac:1/icv:zero"},
		{"never chains on", func(w *wire02) { w.reply(3, w.sRMAC, w.icv[1], ok, w.plain(3), w.answered(3), ok) }, "r-mac:3/icv:external-authenticate"},
		{"a response was lost", func(w *wire02) { w.reply(3, w.sRMAC, w.ricv(2), ok, w.plain(3), w.answered(3), ok) }, "r-mac:3/icv:previous"},
		{"chains from the C-MAC", func(w *wire02) { w.reply(2, w.sRMAC, w.icv[3], ok, w.plain(2), w.answered(2), ok) }, "r-mac:2/icv:c-mac"},
		{"Lc with MAC", func(w *wire02) {
			c := w.plain(2)
			c[4] += 8
			w.reply(2, w.sRMAC, w.ricv(2), ok, c, w.answered(2), ok)
		}, "r-mac:2/lc:with-mac"},
		{"no Lc", func(w *wire02) { w.reply(1, w.sRMAC, w.ricv(1), ok, w.plain(1)[:4], w.answered(1), ok) }, "r-mac:1/lc:missing"},
		{"CLA secured", func(w *wire02) {
			c := w.plain(1)
			c[0] |= 4
			w.reply(1, w.sRMAC, w.ricv(1), ok, c, w.answered(1), ok)
		}, "r-mac:1/cla:secured"},
		{"the command as sent", func(w *wire02) {
			c := w.plain(2)
			c[0], c[4] = c[0]|4, c[4]+8
			w.reply(2, w.sRMAC, w.ricv(2), ok, c, w.answered(2), ok)
		}, "r-mac:2/lc:with-mac/cla:secured"},
		{"CLA with a logical channel", func(w *wire02) {
			w.commands[1][0] |= 1
			c := w.plain(1)
			c[0] |= 1
			w.reply(1, w.sRMAC, w.ricv(1), ok, c, w.answered(1), ok)
		}, "r-mac:1/cla:with-channel"},
		{"no status word", func(w *wire02) { w.reply(1, w.sRMAC, w.ricv(1), ok, w.plain(1), w.answered(1)) }, "r-mac:1/status-word:missing"},
		{"a warning MACed as success", func(w *wire02) {
			w.reply(1, w.sRMAC, w.ricv(1), []byte{0x63, 0x10}, w.plain(1), w.answered(1), ok)
		}, "r-mac:1/status-word:9000"},
		{"padded twice", func(w *wire02) {
			w.reply(1, w.sRMAC, w.ricv(1), ok, pad80(w.plain(1), w.answered(1), ok))
		}, "r-mac:1/padding:twice"},
		{"no MAC", func(w *wire02) { w.respond(1, []byte{7}, nil, ok...) }, "r-mac:1/mac:missing"},
		{"a byte altered", func(w *wire02) { w.responses[3][0] ^= 1 }, "r-mac:3/none"},
		{"two things", func(w *wire02) { w.reply(1, w.sMAC, zero, ok, w.plain(1), w.answered(1), ok) }, "r-mac:1/key:s-mac/icv:zero"},
		{"C-MAC first", func(w *wire02) { w.remac(w.sMAC, w.icv[3], same); w.responses[3][0] ^= 1 }, "c-mac:3/icv:not-encrypted"},
	})
}

// TestExplainMAC02Input: nothing that is no transcript of SCP02.
func TestExplainMAC02Input(t *testing.T) {
	h := newExplained(t, 0x15, 0x01)
	w := h.record02(0x15, 0x01, [10]byte{0xE1, 0xE2, 0xE3, 9: 5})
	good := w.transcript()
	lines := strings.SplitAfter(good, "\n")
	for name, transcript := range map[string]string{
		"no hexadecimal":                  "> xyz\n",
		"cut off":                         good[:len(good)-2],
		"a command cut off":               lines[0] + lines[2][:len(lines[2])-5] + "\n",
		"a response first":                "< 9000\n" + good,
		"two responses":                   lines[0] + lines[1] + lines[1],
		"another command first":           strings.Join(lines[2:], ""),
		"a level of none":                 strings.Replace(good, "> 848201", "> 848202", 1),
		"a level that the card has not":   strings.Replace(good, "> 848201", "> 848211", 1),
		"a level of SCP03":                strings.Replace(good, "> 848201", "> 848233", 1),
		"commands at level 00":            strings.Replace(good, "> 848201", "> 848200", 1),
		"EXTERNAL AUTHENTICATE in clear":  strings.Replace(good, "> 84", "> 80", 1),
		"EXTERNAL AUTHENTICATE of S16":    "> 8482010020" + strings.Repeat("00", 32) + "\n",
		"a command in clear":              lines[0] + "> 80CA006600\n",
		"a command too short for its MAC": lines[0] + "> 84CA0066020102\n",
		"an extended command":             lines[0] + "> 84CA006600000801020304050607080000\n",
		"secured as ISO 7816 has it":      lines[0] + "> 0CCA0066080102030405060708\n",
		"a further interindustry class":   lines[0] + "> C4CA0066080102030405060708\n",
		"seventeen commands":              lines[0] + strings.Repeat(lines[2], 16),
		"the card's name":                 lines[0] + fmt.Sprintf("< %X9000\n", w.kdd),
	} {
		_, err := h.propose("ada", h.explainingOld(w, transcript))
		h.want(name, err, fault.InvalidInput)
	}
	in := h.explainingOld(w, good)
	in.Document += "> 84CA0066080102030405060708\n"
	_, err := h.propose("ada", in)
	h.want("another transcript", err, fault.InvalidInput)
	if _, err := h.propose("ada", h.explainingOld(w, good)); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}

// TestExplainMAC02Limits: a transcript is explained as the card's answer is: under
// approval, three times a day for both, and also when the exception under which the card
// was spoken with is over, because nothing is spoken.
func TestExplainMAC02Limits(t *testing.T) {
	h := newExplained(t, 0x15, 0x01)
	w := h.record02(0x15, 0x01, [10]byte{9: 9})
	h.must(h.changeVersion("old", 1, func(v *key.Version) { v.LegacyUntil = time.Time{} }))
	h.advance(1100 * time.Millisecond)
	_, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "old", KVN: oldKVN, Profile: "old"})
	h.want("a channel", err, fault.LegacyRefused)
	for _, transcript := range []string{"", w.transcript(), w.transcript()} {
		done, err := h.execute(h.approved(h.explainingOld(w, transcript)))
		if err != nil || done.Found != "as-expected" {
			t.Errorf("%q, %v", done.Found, err)
		}
	}
	_, err = h.execute(h.approved(h.explainingOld(w, w.transcript())))
	h.want("a fourth time", err, fault.RateLimited)
	_, err = h.service.Propose(h.ctx, h.req(), h.explainingOld(w, w.transcript()))
	h.want("an update server", err, fault.Forbidden)
}
