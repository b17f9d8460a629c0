package scp02_test

import (
	"bytes"
	"fmt"
	"testing"

	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/softhsm/cardsim"
)

var isd = unhex("A000000151000000")

// newCard is a simulated card with SCP02 keys, which computes everything by itself.
func newCard(t *testing.T, i byte, q cardsim.Quirks) *cardsim.Card {
	t.Helper()
	aes := bytes.Repeat([]byte{0x77}, 16)
	c, err := cardsim.New(cardsim.Config{
		KDD: [10]byte{1, 2, 3}, ISD: isd, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70, Quirks: q,
		Legacy: cardsim.LegacyKeys{KVN: 0x20, I: i, ENC: cardKeys(i).ENC, MAC: cardKeys(i).MAC, DEK: cardKeys(i).DEK},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.PowerOn()
	return c
}

// cardKeys are three keys, or one where the card has one base key.
func cardKeys(i byte) staticKeys {
	k := staticKeys{unhex("101112131415161718191A1B1C1D1E1F"), unhex("202122232425262728292A2B2C2D2E2F"), unhex("303132333435363738393A3B3C3D3E3F")}
	if i&scp02.IThreeKeys == 0 {
		k.MAC, k.DEK = k.ENC, k.ENC
	}
	return k
}

func transmit(t *testing.T, card *cardsim.Card, c apdu.Command) apdu.Response {
	t.Helper()
	b, err := card.Transmit(c.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	r, err := apdu.ParseResponse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// connect opens a session with a card, as its "i" parameter wants it.
func connect(t *testing.T, card *cardsim.Card, i byte, l scp02.Level) *opened {
	t.Helper()
	if i&scp02.IExplicit == 0 {
		return connectImplicitly(t, card, i)
	}
	host := []byte("hostchal")
	r := transmit(t, card, scp02.InitializeUpdate(0x20, host))
	if r.SW != apdu.Success {
		t.Fatalf("INITIALIZE UPDATE: %s", r.SW)
	}
	o, ext := open(t, cardKeys(i), host, r.Data, l, i, isd)
	c, err := apdu.ParseCommand(ext)
	if err != nil {
		t.Fatal(err)
	}
	if r := transmit(t, card, c); r.SW != apdu.Success {
		t.Fatalf("EXTERNAL AUTHENTICATE: %s", r.SW)
	}
	return o
}

func connectImplicitly(t *testing.T, card *cardsim.Card, i byte) *opened {
	t.Helper()
	r := transmit(t, card, apdu.Command{CLA: 0x80, INS: 0xCA, P2: 0xC1, Ne: 256})
	if r.SW != apdu.Success || len(r.Data) != 4 {
		t.Fatalf("GET DATA of the sequence counter: %X %s", r.Data, r.SW)
	}
	o := &opened{tok: new(derivetest.Token)}
	keys, err := scp02.SessionKeys(cardKeys(i).add(o.tok), uint16(r.Data[2])<<8|uint16(r.Data[3]))
	if err != nil {
		t.Fatal(err)
	}
	o.Messaging = scp02.Messaging{Token: o.tok, Keys: keys, Level: scp02.CMAC, I: i}
	if o.state, err = o.Implicit(ctx, isd); err != nil {
		t.Fatal(err)
	}
	return o
}

// script is what each session sends: with and without data, short and full, commands
// that succeed and commands that fail.
func script(room int) []apdu.Command {
	out := []apdu.Command{
		{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Ne: 256},
		{CLA: 0x00, INS: 0xA4, P1: 0x00, Data: []byte{0x01, 0x01}, Ne: 256},
		{CLA: 0x00, INS: 0xB0, Ne: 64},
		{CLA: 0x80, INS: 0xCA, P1: 0x12, P2: 0x34, Ne: 256}, // 6A88
		{CLA: 0x80, INS: 0x01},                              // 6D00
		{CLA: 0x00, INS: 0x20, P2: 0x80, Data: []byte("1234")},
	}
	for _, n := range []int{1, 7, 8, 9, 16, 63} {
		out = append(out, apdu.Command{CLA: 0x00, INS: 0xD6, Data: bytes.Repeat([]byte{byte(n)}, n)})
	}
	return append(out, apdu.Command{CLA: 0x80, INS: 0x02, Data: make([]byte, room)}, apdu.Command{CLA: 0x00, INS: 0xB0, Ne: 64})
}

// TestCard runs two sessions with a card of each "i" parameter at each level: every
// command is accepted and every response verifies.
func TestCard(t *testing.T) {
	for _, i := range []byte{0x05, 0x15, 0x1A, 0x35, 0x45, 0x55, 0x75} {
		for _, l := range []scp02.Level{0x01, 0x03, 0x11, 0x13} {
			if !scp02.ValidLevel(l, i) {
				continue
			}
			for _, pad := range []bool{false, true} {
				t.Run(fmt.Sprintf("i=%02X level=%02X pad=%t", i, l, pad), func(t *testing.T) {
					card := newCard(t, i, cardsim.Quirks{EmptyCommandPadded: pad})
					for range 2 {
						card.PowerOff()
						card.PowerOn()
						o := connect(t, card, i, l)
						o.PadEmpty = pad
						o.run(t, card)
					}
				})
			}
		}
	}
}

func (o *opened) run(t *testing.T, card *cardsim.Card) {
	t.Helper()
	for _, c := range script(o.DataMax()) {
		w, next, err := o.Wrap(ctx, o.state, c)
		if err != nil {
			t.Fatal(err)
		}
		o.state = next
		r := transmit(t, card, w)
		if r.SW == 0x6982 || r.SW == 0x6985 {
			t.Fatalf("%X: the card answers %s", c.Bytes(), r.SW)
		}
		u, responses, err := o.Unwrap(ctx, o.responses, c, r)
		if err != nil {
			t.Fatalf("%X: %v", c.Bytes(), err)
		}
		o.responses = responses
		if c.INS == 0xB0 && (u.SW != apdu.Success || len(u.Data) != 64) {
			t.Errorf("reading: %X %s", u.Data, u.SW)
		}
	}
}

// TestCardRefuses: the card takes no altered command, and the host no altered response.
func TestCardRefuses(t *testing.T) {
	for _, i := range []byte{0x15, 0x35, 0x45, 0x1A} {
		l := scp02.CMAC
		if i&scp02.IRMAC != 0 {
			l |= scp02.RMAC | scp02.CDecryption
		}
		c := apdu.Command{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Data: []byte{1, 2, 3}}
		for bit := range 8 * 8 {
			card := newCard(t, i, cardsim.Quirks{})
			o := connect(t, card, i, l)
			w, _, err := o.Wrap(ctx, o.state, c)
			if err != nil {
				t.Fatal(err)
			}
			w.Data[len(w.Data)-8+bit/8] ^= 1 << (bit % 8)
			if r := transmit(t, card, w); r.SW != 0x6982 && r.SW != 0x6985 {
				t.Errorf("i = %02X, bit %d of the C-MAC: %s", i, bit, r.SW)
			}
		}
	}
}

// TestCardCounter: the sequence counter moves when the host proved itself and not
// before, and at its end the card gives no session.
func TestCardCounter(t *testing.T) {
	card := newCard(t, 0x15, cardsim.Quirks{})
	counter := func() uint16 {
		r := transmit(t, card, scp02.InitializeUpdate(0x20, make([]byte, 8)))
		a, err := scp02.ParseAnswer(r.Data)
		if err != nil {
			t.Fatal(err)
		}
		return a.Counter
	}
	if a, b := counter(), counter(); a != 0 || b != 0 {
		t.Errorf("counters %d and %d before any session", a, b)
	}
	for n := range uint16(3) {
		connect(t, card, 0x15, scp02.CMAC)
		if got := counter(); got != n+1 {
			t.Errorf("after %d sessions the counter is %d", n+1, got)
		}
	}
}

// TestWrongCard: with other keys than the host's, nothing verifies.
func TestWrongCard(t *testing.T) {
	card := newCard(t, 0x15, cardsim.Quirks{})
	r := transmit(t, card, scp02.InitializeUpdate(0x20, make([]byte, 8)))
	a, err := scp02.ParseAnswer(r.Data)
	if err != nil {
		t.Fatal(err)
	}
	tok := new(derivetest.Token)
	keys, err := scp02.SessionKeys(gpKeys.add(tok), a.Counter)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a card with other keys", scp02.VerifyCard(ctx, tok, keys, make([]byte, 8), a), fault.ProofFailed)
}
