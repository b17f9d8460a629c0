package channel_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/softhsm/cardsim"
)

// agreedPair is a channel of SCP11b and the simulated card that it leads to.
type agreedPair struct {
	ch   *channel.Channel
	tok  *releasing
	card *cardsim.Card
}

// releasing remembers which keys were released.
type releasing struct {
	counting
	released map[[32]byte]bool
	unable   error
}

func (r *releasing) Release(keys ...*derive.Key) {
	for _, k := range keys {
		if k != nil {
			r.released[k.ID()] = true
		}
	}
}

func (r *releasing) Ephemeral(ctx context.Context, token string) (*derive.Key, *ecdh.PublicKey, error) {
	if r.unable != nil {
		return nil, nil, r.unable
	}
	return r.counting.Ephemeral(ctx, token)
}

func openAgreed(t *testing.T) (*agreedPair, apdu.Response) {
	t.Helper()
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	aes := bytes.Repeat([]byte{0x77}, 16)
	card, err := cardsim.New(cardsim.Config{
		ISD: isdAID, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70, Agreed: cardsim.AgreedKeys{KVN: 1, Private: private},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	card.PowerOn()
	x := &agreedPair{tok: &releasing{released: map[[32]byte]bool{}}, card: card}
	peer := channel.Peer{KDD: scp11.KDD(private.PublicKey()), KVN: 1, Public: private.PublicKey()}
	var cmd apdu.Command
	if x.ch, cmd, err = channel.OpenSCP11(ctx, x.tok, channel.Profile{Mode: 8, SCP11: scp11.B}, limits, peer, start); err != nil {
		t.Fatal(err)
	}
	return x, x.transmit(t, cmd)
}

func (x *agreedPair) transmit(t *testing.T, c apdu.Command) apdu.Response {
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

// TestAgreed: the card's answer opens a session at level 33 whose commands and responses
// both sides take, and closing it releases what was agreed on.
func TestAgreed(t *testing.T) {
	x, answer := openAgreed(t)
	if x.ch.Authenticated() {
		t.Error("authenticated before the answer")
	}
	a, err := x.ch.Answer(answer, start)
	if err != nil || len(a.KDD) != 10 || a.KVN != 1 || a.CounterIncluded {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := x.ch.AuthenticateSCP11(ctx, x.tok, 0x33, start); err != nil {
		t.Fatal(err)
	}
	pair := len(x.tok.released) // the pair, and the key of the receipt
	if pair != 2 || !x.ch.Authenticated() || x.ch.Level() != 0x33 {
		t.Errorf("%d keys were released", pair)
	}
	for range 3 {
		w, err := x.ch.Wrap(ctx, []apdu.Command{{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Ne: 256}}, start)
		if err != nil {
			t.Fatal(err)
		}
		u, err := x.ch.Unwrap(ctx, []apdu.Response{x.transmit(t, w[0])}, start)
		if err != nil || !bytes.Contains(u[0].Data, []byte("CARDSIM")) {
			t.Fatalf("%v, %v", u, err)
		}
	}
	x.ch.Close(x.tok)
	if n := len(x.tok.released) - pair; n != 4 { // S-ENC, S-MAC, S-RMAC, and what they follow from
		t.Errorf("closing released %d keys", n)
	}
}

// TestAgreedEnds: whatever is not the answer ends the channel, and the pair with it.
func TestAgreedEnds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*apdu.Response)
		now    time.Time
		want   fault.Code
	}{
		"a refusal":             {func(r *apdu.Response) { r.Data, r.SW = nil, 0x6A88 }, start, fault.CardRefused},
		"no object":             {func(r *apdu.Response) { r.Data = nil }, start, fault.InvalidInput},
		"another receipt":       {func(r *apdu.Response) { r.Data[len(r.Data)-1] ^= 1 }, start, fault.ProofFailed},
		"a point off the curve": {func(r *apdu.Response) { r.Data[60] ^= 1 }, start, fault.InvalidInput},
		"late":                  {func(*apdu.Response) {}, start.Add(limits.AnswerWithin + 1), fault.ChannelClosed},
	} {
		x, answer := openAgreed(t)
		good := apdu.Response{Data: bytes.Clone(answer.Data), SW: answer.SW}
		c.change(&answer)
		_, err := x.ch.Answer(answer, c.now)
		if err == nil {
			err = x.ch.AuthenticateSCP11(ctx, x.tok, 0x33, c.now)
		}
		if fault.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := x.ch.Answer(good, start); err == nil {
			t.Errorf("%s: and then the right one", name)
		}
		x.ch.Close(x.tok)
		if len(x.tok.released) == 0 || x.ch.Authenticated() {
			t.Errorf("%s: the pair lives on", name)
		}
	}
}

// TestAgreedMisused: neither the level nor the protocol can be another one.
func TestAgreedMisused(t *testing.T) {
	x, answer := openAgreed(t)
	if err := x.ch.AuthenticateSCP11(ctx, x.tok, 0x33, start); fault.CodeOf(err) != fault.ChannelState {
		t.Errorf("before the answer: %v", err)
	}
	if _, err := x.ch.Answer(answer, start); err != nil {
		t.Fatal(err)
	}
	if err := x.ch.AuthenticateSCP11(ctx, x.tok, 0x13, start); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("level 13: %v", err)
	}
	if err := x.ch.AuthenticateSCP11(ctx, x.tok, 0x33, start); fault.CodeOf(err) != fault.ChannelClosed {
		t.Errorf("a second time: %v", err)
	}
	tok := &releasing{unable: errors.New("unable")}
	if _, _, err := channel.OpenSCP11(ctx, tok, channel.Profile{SCP11: scp11.B}, limits, channel.Peer{}, start); !errors.Is(err, tok.unable) {
		t.Errorf("a token that makes no pair: %v", err)
	}
}
