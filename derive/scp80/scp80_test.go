package scp80_test

import (
	"bytes"
	"fmt"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp80"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// secrets are keys of every length.
var (
	secretKIc = []byte("a key that ciphers, of 32 bytes.")
	secretKID = []byte("another key that checks packets.")
)

// suites are the ways to secure packets in both directions.
func suites() (out []card) {
	for _, alg := range []struct{ nibble, size byte }{{2, 16}, {2, 24}, {2, 32}, {5, 16}, {9, 24}} {
		for check := scp80.NoCheck; check <= scp80.CC; check++ {
			for _, ciphered := range []byte{0, 1} {
				c := card{kic: secretKIc[:alg.size], kid: secretKID[:alg.size], checkLen: 8}
				c.h = scp80.Header{
					SPI: scp80.SPI{0x10 | ciphered<<2 | byte(check), 0x01 | byte(check)<<2 | ciphered<<4},
					KIc: 0x10 | alg.nibble, KID: 0x10 | alg.nibble, TAR: [3]byte{0xB0, 0x00, 0x11},
				}
				if check == scp80.RC {
					c.h.KID = 0x11
				}
				out = append(out, c)
				switch {
				case check == scp80.RC:
					c.h.KID = 0x15
					out = append(out, c)
				case check == scp80.CC && alg.nibble == 2:
					c.h.CCBytes, c.checkLen = 4, 4
					out = append(out, c)
				}
			}
		}
	}
	return out
}

func (c card) name() string {
	return fmt.Sprintf("SPI %X KIc %02X KID %02X keys of %d, CC of %d", c.h.SPI, c.h.KIc, c.h.KID, len(c.kic), c.h.CCBytes)
}

func (c card) keys(tok *derivetest.Token) scp80.Keys {
	if c.h.SPI.Check() == scp80.RC {
		return keysOf(tok, c.h, c.kic, nil)
	}
	return keysOf(tok, c.h, c.kic, c.kid)
}

// TestBothSides: what is secured here unpacks there, and what is packed there opens
// here, at every length of data around two blocks.
func TestBothSides(t *testing.T) {
	for _, c := range suites() {
		var tok derivetest.Token
		k := c.keys(&tok)
		for n := 1; n < 40; n++ {
			data := bytes.Repeat([]byte{0xA5}, n)
			packet, err := scp80.Command(ctx, &tok, k, c.h, 0x0102030405, data)
			if err != nil {
				t.Fatalf("%s: %v", c.name(), err)
			}
			counter, got, intact := c.unpack(packet)
			if !intact || !bytes.Equal(counter, []byte{1, 2, 3, 4, 5}) || !bytes.Equal(got, data) {
				t.Fatalf("%s: the card unpacks %X %X, %t", c.name(), counter, got, intact)
			}
			r, err := c.open(&tok, k, c.answer(counter, 0x0A, data, -1))
			if c.unable() {
				if fault.CodeOf(err) != fault.TokenUnable {
					t.Fatalf("%s: %v, want token_unable", c.name(), err)
				}
				continue
			}
			if err != nil || r.Counter != 0x0102030405 || r.Status != 0x0A || !bytes.Equal(r.Data, data) || r.Proved != (c.h.SPI.AnswerCheck() == scp80.CC) {
				t.Fatalf("%s: %+v, %v", c.name(), r, err)
			}
		}
	}
}

// unable: responses that no token deciphers.
func (c card) unable() bool { return c.h.SPI.AnswerCiphered() && algorithmOf(c.h.KIc, c.kic).TDEA() }

func (c card) open(tok *derivetest.Token, k scp80.Keys, packet []byte) (scp80.Response, error) {
	a, err := scp80.ParseAnswer(packet)
	if err != nil {
		return scp80.Response{}, err
	}
	return a.Open(ctx, tok, k, c.h)
}

// TestEveryBitOfAnswers: a response with a check is refused with any bit changed, cut
// anywhere or longer, and refusals of the proof all look the same.
func TestEveryBitOfAnswers(t *testing.T) {
	for _, c := range suites() {
		if c.unable() || c.h.SPI.AnswerCheck() == scp80.NoCheck {
			continue
		}
		var tok derivetest.Token
		k := c.keys(&tok)
		good := c.answer([]byte{0, 0, 0, 0, 7}, 0, []byte("9000 and more"), -1)
		refused := func(what string, b []byte) {
			t.Helper()
			r, err := c.open(&tok, k, b)
			code := fault.CodeOf(err)
			if code != fault.ProofFailed && code != fault.InvalidInput || r.Data != nil || r.Proved {
				t.Fatalf("%s: %s: %+v, %v", c.name(), what, r, err)
			}
			if code == fault.ProofFailed && err.Error() != fault.Proof().Error() {
				t.Fatalf("%s: %s: %v tells more", c.name(), what, err)
			}
		}
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			refused(fmt.Sprintf("bit %d", bit), b)
		}
		for n := range good {
			refused(fmt.Sprintf("%d bytes", n), good[:n])
			cut := bytes.Clone(good[:n])
			if n > 2 {
				cut[0], cut[1] = 0, byte(n-2)
			}
			refused(fmt.Sprintf("%d bytes that say so", n), cut)
		}
		refused("one byte more", append(bytes.Clone(good), 0))
		for _, pad := range []int{17, 255} {
			refused(fmt.Sprintf("padding of %d", pad), c.answer([]byte{0, 0, 0, 0, 7}, 0, []byte("9000 and more"), pad))
		}
	}
}

// TestOtherAnswers: a proof is of one kind, one application and one direction.
func TestOtherAnswers(t *testing.T) {
	var tok derivetest.Token
	c := card{kic: secretKIc[:16], kid: secretKID[:16], checkLen: 8}
	c.h = scp80.Header{SPI: scp80.SPI{0x16, 0x19}, KIc: 0x12, KID: 0x12, TAR: [3]byte{0xB0, 0x00, 0x11}}
	k := c.keys(&tok)
	bare := c
	bare.h.SPI[1] = 0x01 // no check, not ciphered: what a card sends that knows no better
	other := c
	other.h.TAR[2]++
	command, err := scp80.Command(ctx, &tok, k, c.h, 1, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	for name, packet := range map[string][]byte{
		"a bare error":                   bare.answer(make([]byte, 5), 0x09, nil, -1),
		"another application's":          other.answer(make([]byte, 5), 0, nil, -1),
		"the command itself":             command,
		"padding where there is none":    card{h: c.h, kid: secretKIc[:16], kic: c.kic, checkLen: 8}.answer(make([]byte, 5), 0, nil, -1),
		"no whole number of AES blocks":  append([]byte{0, 12, 18}, make([]byte, 11+16)...),
		"nothing at all":                 nil,
		"a check longer than there is":   {0, 11, 18, 0xB0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0},
		"a response of more than its id": make([]byte, 1100),
	} {
		if r, err := c.open(&tok, k, packet); err == nil {
			t.Errorf("%s is a proof: %+v", name, r)
		}
	}
}

// TestBadCommands: what cannot be secured is refused before the token is asked.
func TestBadCommands(t *testing.T) {
	var tok derivetest.Token
	aes := scp80.Keys{
		KIc: tok.Add("aes-kic", key.AES128, derive.SessionENC, secretKIc[:16]),
		KID: tok.Add("aes-kid", key.AES128, derive.SessionMAC, secretKID[:16]),
	}
	tdea := scp80.Keys{
		KIc: tok.Add("tdea-kic", key.TDEA2, derive.SessionENC, secretKIc[:16]),
		KID: tok.Add("tdea-kid", key.TDEA2, derive.SessionENC, secretKID[:16]),
	}
	good := scp80.Header{SPI: scp80.SPI{0x16, 0x01}, KIc: 0x12, KID: 0x12}
	for name, c := range map[string]struct {
		change  func(*scp80.Header)
		keys    scp80.Keys
		counter uint64
		bytes   int
	}{
		"nothing":                        {nil, aes, 1, 0},
		"too much":                       {nil, aes, 1, scp80.DataMax + 1},
		"a counter of 6 bytes":           {nil, aes, scp80.CounterMax + 1, 1},
		"a counter where there is none":  {func(h *scp80.Header) { h.SPI[0] = 0x06 }, aes, 1, 1},
		"a signature":                    {func(h *scp80.Header) { h.SPI[0] = 0x17 }, aes, 1, 1},
		"a signature in answer":          {func(h *scp80.Header) { h.SPI[1] = 0x0D }, aes, 1, 1},
		"a reserved bit of the SPI":      {func(h *scp80.Header) { h.SPI[0] = 0x36 }, aes, 1, 1},
		"a reserved bit of its answer":   {func(h *scp80.Header) { h.SPI[1] = 0x41 }, aes, 1, 1},
		"a reserved kind of answer":      {func(h *scp80.Header) { h.SPI[1] = 0x03 }, aes, 1, 1},
		"single DES":                     {func(h *scp80.Header) { h.KIc = 0x11 }, tdea, 1, 1},
		"an implicit algorithm":          {func(h *scp80.Header) { h.KIc = 0x10 }, aes, 1, 1},
		"3DES with a key of AES":         {func(h *scp80.Header) { h.KIc = 0x15 }, aes, 1, 1},
		"3 keys with 2":                  {func(h *scp80.Header) { h.KIc, h.KID = 0x19, 0x19 }, tdea, 1, 1},
		"AES with a key of 3DES":         {nil, tdea, 1, 1},
		"a CC by CRC":                    {func(h *scp80.Header) { h.KID = 0x11 }, aes, 1, 1},
		"an RC that is none":             {func(h *scp80.Header) { h.SPI[0], h.KID = 0x15, 0x13 }, aes, 1, 1},
		"a CC of 6 bytes":                {func(h *scp80.Header) { h.CCBytes = 6 }, aes, 1, 1},
		"no KIc":                         {nil, scp80.Keys{KID: aes.KID}, 1, 1},
		"no KID":                         {nil, scp80.Keys{KIc: aes.KIc}, 1, 1},
		"a KID that ciphers":             {nil, scp80.Keys{KIc: aes.KIc, KID: aes.KIc}, 1, 1},
		"a KIc that checks":              {nil, scp80.Keys{KIc: aes.KID, KID: aes.KID}, 1, 1},
		"a 3DES key of the other family": {func(h *scp80.Header) { h.KID = 0x15 }, scp80.Keys{KIc: aes.KIc, KID: aes.KID}, 1, 1},
	} {
		h := good
		if c.change != nil {
			c.change(&h)
		}
		before := tok.Calls
		if p, err := scp80.Command(ctx, &tok, c.keys, h, c.counter, make([]byte, c.bytes)); fault.CodeOf(err) != fault.InvalidInput || p != nil || tok.Calls != before {
			t.Errorf("%s: %X, %v", name, p, err)
		}
	}
	if p, err := scp80.Command(ctx, &tok, aes, good, scp80.CounterMax, make([]byte, scp80.DataMax)); err != nil || len(p) > 2+0xFFFF {
		t.Errorf("the longest packet with the last counter: %v", err)
	}
}

// FuzzParseAnswer: what is accepted encodes to the same bytes, and without the key no
// packet is a proof.
func FuzzParseAnswer(f *testing.F) {
	c := card{kic: secretKIc[:16], kid: secretKID[:16], checkLen: 8}
	c.h = scp80.Header{SPI: scp80.SPI{0x16, 0x19}, KIc: 0x12, KID: 0x12, TAR: [3]byte{0xB0, 0x00, 0x11}}
	f.Add(c.answer(make([]byte, 5), 0, []byte{0x90, 0x00}, -1), byte(0x19))
	f.Add([]byte{0, 11, 10, 0xB0, 0, 0x11, 0, 0, 0, 0, 0, 0, 9}, byte(0x01))
	f.Add([]byte{0, 15, 14, 0xB0, 0, 0x11, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4}, byte(0x05))
	f.Fuzz(func(t *testing.T, b []byte, spi byte) {
		a, err := scp80.ParseAnswer(b)
		if err != nil {
			if fault.CodeOf(err) != fault.InvalidInput {
				t.Fatalf("code %s", fault.CodeOf(err))
			}
			return
		}
		if !bytes.Equal(a.Encode(), b) {
			t.Fatalf("encoding gives %X", a.Encode())
		}
		var tok derivetest.Token
		h := c.h
		h.SPI[1] = spi
		other := keysOf(&tok, h, secretKID[:16], secretKIc[:16]) // not the card's
		if r, err := a.Open(ctx, &tok, other, h); err == nil && r.Proved {
			t.Fatalf("a packet without a key's CC is a proof: %X", b)
		}
	})
}
