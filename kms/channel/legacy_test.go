package channel_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

var isdAID = []byte{0xA0, 0, 0, 1, 0x51, 0, 0, 0}

// legacyPair is a channel of SCP02 and the simulated card that it leads to.
type legacyPair struct {
	ch     *channel.Channel
	tok    *counting
	card   *cardsim.Card
	static scp02.Static
	now    time.Time
}

// openLegacy gives a channel and the card's answer to its INITIALIZE UPDATE.
func openLegacy(t *testing.T, i byte, o scp03.Options) (*legacyPair, apdu.Response) {
	t.Helper()
	x := &legacyPair{tok: &counting{}, now: start}
	master := x.tok.Add("master", key.TDEA2, derive.Static, []byte("a 3DES master!!!"))
	one := func(purpose byte) *derive.Key {
		return master.Derive(derive.Step{Function: derive.ECB, Messages: [][]byte{bytes.Repeat([]byte{purpose}, 16)}, Class: derive.StaticCBC, Algorithm: key.TDEA2})
	}
	x.static = scp02.Static{ENC: one(1), MAC: one(2)}
	aes := bytes.Repeat([]byte{0x77}, 16)
	var err error
	x.card, err = cardsim.New(cardsim.Config{
		ISD: isdAID, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70,
		Quirks: cardsim.Quirks{EmptyCommandPadded: o.PadEmpty},
		Legacy: cardsim.LegacyKeys{KVN: 0x20, I: i, ENC: x.tok.Value(x.static.ENC), MAC: x.tok.Value(x.static.MAC), DEK: aes},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	x.card.PowerOn()
	ch, cmd := channel.Open(channel.Profile{Mode: scp03.S8, AID: isdAID, SCP02: i, Options: o}, limits, 0x20, []byte("hostchal"), x.now)
	x.ch = ch
	return x, x.transmit(t, cmd)
}

func (x *legacyPair) transmit(t *testing.T, c apdu.Command) apdu.Response {
	t.Helper()
	b, err := x.card.Transmit(c.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	r, err := apdu.ParseResponse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// authenticatedLegacy gives a channel whose card took EXTERNAL AUTHENTICATE.
func authenticatedLegacy(t *testing.T, i byte, l scp03.Level, o scp03.Options) *legacyPair {
	t.Helper()
	x, answer := openLegacy(t, i, o)
	a, err := x.ch.Answer(answer, x.now)
	if err != nil || !a.CounterIncluded || a.I != i || a.KVN != 0x20 {
		t.Fatalf("%+v, %v", a, err)
	}
	cmd, err := x.ch.AuthenticateSCP02(ctx, x.tok, x.static, l, x.now)
	if err != nil {
		t.Fatal(err)
	}
	if r := x.transmit(t, cmd); r.SW != apdu.Success {
		t.Fatalf("EXTERNAL AUTHENTICATE: %s", r.SW)
	}
	return x
}

var legacyScript = []apdu.Command{
	{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Ne: 256},
	{CLA: 0x00, INS: 0xA4, Data: []byte{0x01, 0x01}, Ne: 256},
	{CLA: 0x00, INS: 0xB0, Ne: 64},
	{CLA: 0x80, INS: 0x01, Data: make([]byte, 200)}, // 6D00
	{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Ne: 256},
}

// TestLegacyChannel wraps whole scripts before any response is there, twice, for cards
// of each "i" parameter with explicit initiation at each level.
func TestLegacyChannel(t *testing.T) {
	for _, i := range []byte{0x05, 0x15, 0x35, 0x45, 0x55, 0x75} {
		for _, l := range []scp03.Level{0x01, 0x03, 0x11, 0x13} {
			if !scp02.ValidLevel(scp02.Level(l), i) {
				continue
			}
			for _, pad := range []bool{false, true} {
				t.Run(fmt.Sprintf("i=%02X level=%02X pad=%t", i, l, pad), func(t *testing.T) {
					x := authenticatedLegacy(t, i, l, scp03.Options{PadEmpty: pad})
					for range 2 {
						x.run(t, legacyScript)
					}
					if x.ch.Level() != l || x.ch.DataMax(true) > 247 || !x.ch.Authenticated() {
						t.Error("the channel says something else of itself")
					}
					x.ch.Close(x.tok)
					if len(x.tok.live) != 0 {
						t.Errorf("%d keys outlive the channel", len(x.tok.live))
					}
				})
			}
		}
	}
}

func (x *legacyPair) run(t *testing.T, script []apdu.Command) {
	t.Helper()
	wrapped, err := x.ch.Wrap(ctx, script, x.now)
	if err != nil {
		t.Fatal(err)
	}
	var responses []apdu.Response
	for _, w := range wrapped {
		responses = append(responses, x.transmit(t, w))
	}
	plain, err := x.ch.Unwrap(ctx, responses, x.now)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []struct {
		sw    apdu.SW
		bytes int
	}{{0x9000, 45}, {0x9000, 13}, {0x9000, 64}, {0x6D00, 0}, {0x9000, 45}} {
		if plain[n].SW != want.sw || len(plain[n].Data) != want.bytes {
			t.Errorf("response %d is %X", n+1, plain[n].Bytes())
		}
	}
}

// TestLegacyRefused: nothing leads past the card's proof, and whatever fails leaves no
// key behind.
func TestLegacyRefused(t *testing.T) {
	for name, c := range map[string]struct {
		i    byte
		l    scp03.Level
		do   func(x *legacyPair, r *apdu.Response)
		want fault.Code
	}{
		"a wrong cryptogram":   {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data[27] ^= 1 }, fault.ProofFailed},
		"another counter":      {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data[13] ^= 1 }, fault.ProofFailed},
		"another challenge":    {0x55, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data[14] ^= 1 }, fault.ProofFailed},
		"another KVN":          {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data[10] = 0x21 }, fault.ProofFailed},
		"an answer of SCP03":   {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data[11] = 0x03 }, fault.InvalidInput},
		"a short answer":       {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.Data = r.Data[:27] }, fault.InvalidInput},
		"a refusal":            {0x15, 0x01, func(_ *legacyPair, r *apdu.Response) { r.SW = 0x6A88 }, fault.CardRefused},
		"R-MAC without its i":  {0x15, 0x11, nil, fault.InvalidInput},
		"a level of SCP03":     {0x35, 0x33, nil, fault.InvalidInput},
		"card keys of a class": {0x15, 0x01, func(x *legacyPair, _ *apdu.Response) { x.static.MAC = x.tok.Add("x", key.TDEA2, derive.Static, kMAC) }, fault.InvalidInput},
		"a token that fails":   {0x15, 0x01, func(x *legacyPair, _ *apdu.Response) { x.tok.fail = fault.New(fault.TokenUnavailable, "") }, fault.TokenUnavailable},
	} {
		x, r := openLegacy(t, c.i, scp03.Options{})
		if c.do != nil {
			c.do(x, &r)
		}
		_, err := x.ch.Answer(r, x.now)
		var cmd apdu.Command
		if err == nil {
			cmd, err = x.ch.AuthenticateSCP02(ctx, x.tok, x.static, c.l, x.now)
		}
		wantCode(t, name, err, c.want)
		if cmd.Data != nil || x.ch.Authenticated() || !x.ch.Expired(x.now) || len(x.tok.live) != 0 {
			t.Errorf("%s: a command, an open channel or %d keys are left", name, len(x.tok.live))
		}
	}
}

// TestProtocolsApart: a channel of one protocol takes no card keys of the other, and
// implicit initiation has no channel.
func TestProtocolsApart(t *testing.T) {
	x, r := openLegacy(t, 0x15, scp03.Options{})
	if _, err := x.ch.Answer(r, x.now); err != nil {
		t.Fatal(err)
	}
	_, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), 0x01, x.now)
	wantCode(t, "SCP03 on a channel of SCP02", err, fault.InvalidInput)

	y, answer := open(t, channel.Profile{}, limits)
	if _, err := y.ch.Answer(answer, y.now); err != nil {
		t.Fatal(err)
	}
	_, err = y.ch.AuthenticateSCP02(ctx, y.tok, x.static, 0x01, y.now)
	wantCode(t, "SCP02 on a channel of SCP03", err, fault.InvalidInput)

	ch, _ := channel.Open(channel.Profile{Mode: scp03.S8, SCP02: 0x1A}, limits, 0x20, []byte("hostchal"), start)
	if _, err := ch.Answer(r, start); err != nil {
		t.Fatal(err)
	}
	_, err = ch.AuthenticateSCP02(ctx, x.tok, x.static, 0x01, start)
	wantCode(t, "implicit initiation", err, fault.InvalidInput)
	if len(x.tok.live)+len(y.tok.live) != 0 {
		t.Error("keys are left")
	}
}

// TestLegacyChallenge: a challenge that is not the pseudo-random one of the profile's
// Security Domain is a failed proof; without an AID it is taken as random.
func TestLegacyChallenge(t *testing.T) {
	for _, c := range []struct {
		profile channel.Profile
		want    fault.Code
	}{
		{channel.Profile{Mode: scp03.S8, SCP02: 0x55, AID: isdAID}, fault.ProofFailed},
		{channel.Profile{Mode: scp03.S8, SCP02: 0x55}, fault.OK},
		{channel.Profile{Mode: scp03.S8, SCP02: 0x15, AID: isdAID}, fault.OK},
	} {
		x, _ := openLegacy(t, 0x15, scp03.Options{}) // whose challenges are random
		ch, cmd := channel.Open(c.profile, limits, 0x20, []byte("hostchal"), x.now)
		if _, err := ch.Answer(x.transmit(t, cmd), x.now); err != nil {
			t.Fatal(err)
		}
		_, err := ch.AuthenticateSCP02(ctx, x.tok, x.static, 0x01, x.now)
		wantCode(t, fmt.Sprintf("a random challenge for %+v", c.profile), err, c.want)
	}
}

// TestLegacyUnwrap: a response that does not verify closes the channel; a token that
// fails in the middle moves nothing, and the same responses verify later.
func TestLegacyUnwrap(t *testing.T) {
	x := authenticatedLegacy(t, 0x35, 0x13, scp03.Options{})
	wrapped, err := x.ch.Wrap(ctx, legacyScript, x.now)
	if err != nil {
		t.Fatal(err)
	}
	var responses []apdu.Response
	for _, w := range wrapped {
		responses = append(responses, x.transmit(t, w))
	}
	if x.ch.Answers(legacyScript[1]) || !x.ch.Answers(legacyScript[0]) {
		t.Error("the channel does not know which command is answered next")
	}
	x.tok.fail = errors.New("the token is away")
	if _, err := x.ch.Unwrap(ctx, responses, x.now); !errors.Is(err, x.tok.fail) {
		t.Fatal(err)
	}
	x.tok.fail = nil
	if _, err := x.ch.Unwrap(ctx, responses[:2], x.now); err != nil {
		t.Fatal(err)
	}
	swapped := []apdu.Response{responses[3], responses[2]}
	_, err = x.ch.Unwrap(ctx, swapped, x.now)
	wantCode(t, "responses in another order", err, fault.ProofFailed)
	_, err = x.ch.Unwrap(ctx, responses[2:], x.now)
	wantCode(t, "after a failed proof", err, fault.ChannelClosed)
	if len(x.tok.live) != 0 {
		t.Errorf("%d keys are left", len(x.tok.live))
	}
}

// TestLegacyWrapAll: a script with one command that cannot be wrapped moves nothing.
func TestLegacyWrapAll(t *testing.T) {
	x := authenticatedLegacy(t, 0x15, 0x03, scp03.Options{})
	_, err := x.ch.Wrap(ctx, []apdu.Command{legacyScript[0], {CLA: 0x80, INS: 0xE2, Data: make([]byte, 240)}}, x.now)
	wantCode(t, "a command that is too long", err, fault.InvalidInput)
	x.run(t, legacyScript)
}

var _ derive.TDEAToken = (*derivetest.Token)(nil)
