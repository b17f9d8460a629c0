package channel_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
)

var limits = channel.DefaultLimits()

// operation is one method of a channel, called in a way that would succeed in
// the right phase.
var operations = []struct {
	name string
	call func(*pair, apdu.Response) error
}{
	{"Answer", func(x *pair, r apdu.Response) error { _, err := x.ch.Answer(r, x.now); return err }},
	{"Authenticate", func(x *pair, _ apdu.Response) error {
		_, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), 0x33, x.now)
		return err
	}},
	{"Wrap", func(x *pair, _ apdu.Response) error {
		_, err := x.ch.Wrap(ctx, []apdu.Command{{CLA: 0x80, INS: 0xE2}}, x.now)
		return err
	}},
	{"Unwrap", func(x *pair, _ apdu.Response) error { _, err := x.ch.Unwrap(ctx, nil, x.now); return err }},
}

// TestPhases is the state machine as a table: which operation each phase
// accepts, and with which code it refuses the others.
func TestPhases(t *testing.T) {
	phases := []struct {
		name  string
		enter func(testing.TB) (*pair, apdu.Response)
		want  [4]fault.Code // in the order of operations
	}{
		{"opened", func(tb testing.TB) (*pair, apdu.Response) { return open(tb, channel.Profile{}, limits) },
			[4]fault.Code{fault.OK, fault.ChannelState, fault.ChannelState, fault.ChannelState}},
		{"answered", func(tb testing.TB) (*pair, apdu.Response) {
			x, r := open(tb, channel.Profile{}, limits)
			if _, err := x.ch.Answer(r, x.now); err != nil {
				tb.Fatal(err)
			}
			return x, r
		}, [4]fault.Code{fault.ChannelState, fault.OK, fault.ChannelState, fault.ChannelState}},
		{"authenticated", func(tb testing.TB) (*pair, apdu.Response) {
			return authenticated(tb, channel.Profile{}, limits, 0x33), apdu.Response{}
		}, [4]fault.Code{fault.ChannelState, fault.ChannelState, fault.OK, fault.OK}},
		{"closed", func(tb testing.TB) (*pair, apdu.Response) {
			x := authenticated(tb, channel.Profile{}, limits, 0x33)
			x.ch.Close(x.tok)
			return x, apdu.Response{}
		}, [4]fault.Code{fault.ChannelClosed, fault.ChannelClosed, fault.ChannelClosed, fault.ChannelClosed}},
	}
	for _, p := range phases {
		for i, op := range operations {
			x, r := p.enter(t)
			err := op.call(x, r)
			wantCode(t, op.name+" when "+p.name, err, p.want[i])
			if got, want := x.ch.Authenticated(), (p.name == "authenticated") || (p.name == "answered" && op.name == "Authenticate"); got != want {
				t.Errorf("%s when %s: authenticated is %t", op.name, p.name, got)
			}
			// An operation out of order does not close the channel.
			if p.want[i] == fault.ChannelState && x.ch.Expired(x.now) {
				t.Errorf("%s when %s closed the channel", op.name, p.name)
			}
		}
	}
}

// TestChallengeOnce: whatever the card answered, the challenge takes no second
// answer, and a bad answer leaves nothing to authenticate with.
func TestChallengeOnce(t *testing.T) {
	for name, spoil := range map[string]func(*apdu.Response){
		"error status word": func(r *apdu.Response) { r.SW = 0x6A88 },
		"warning":           func(r *apdu.Response) { r.SW = 0x6200 },
		"too short":         func(r *apdu.Response) { r.Data = r.Data[:len(r.Data)-1] },
		"too long":          func(r *apdu.Response) { r.Data = append(r.Data, 0) },
		"another protocol":  func(r *apdu.Response) { r.Data[11] = 0x02 },
		"another mode":      func(r *apdu.Response) { r.Data[12] |= scp03.ISixteen },
		"another KVN":       func(r *apdu.Response) { r.Data[10]++ },
	} {
		x, good := open(t, channel.Profile{}, limits)
		bad := apdu.Response{Data: bytes.Clone(good.Data), SW: good.SW}
		spoil(&bad)
		_, err := x.ch.Answer(bad, x.now)
		want := fault.InvalidInput
		switch {
		case bad.SW != apdu.Success:
			want = fault.CardRefused
		case name == "another KVN":
			want = fault.ProofFailed
		}
		wantCode(t, name, err, want)
		_, err = x.ch.Answer(good, x.now)
		wantCode(t, name+", then the good answer", err, fault.ChannelClosed)
		if x.tok.Calls != 0 {
			t.Errorf("%s: the token was used %d times", name, x.tok.Calls)
		}
	}
	x, good := open(t, channel.Profile{}, limits)
	if _, err := x.ch.Answer(good, x.now); err != nil {
		t.Fatal(err)
	}
	_, err := x.ch.Answer(good, x.now)
	wantCode(t, "a second good answer", err, fault.ChannelState)
	// The card's default keys are asked for with KVN 00 and may be any version.
	ch, cmd := channel.Open(channel.Profile{Mode: scp03.S8}, limits, 0, bytes.Repeat([]byte{1}, 8), start)
	if a, err := ch.Answer((&card{mode: scp03.S8, kvn: 0x77, i: 0x60}).initialize(cmd), start); err != nil || a.KVN != 0x77 {
		t.Errorf("KVN 00: %v", err)
	}
}

// TestLifeTimes: each limit holds to its last instant and not an instant longer.
func TestLifeTimes(t *testing.T) {
	const tick = time.Nanosecond
	l := channel.Limits{AnswerWithin: time.Minute, Idle: 5 * time.Minute, Absolute: time.Hour, PendingMax: 8}
	for _, c := range []struct {
		name string
		at   time.Duration
		want fault.Code
	}{
		{"in time", time.Minute, fault.OK},
		{"too late", time.Minute + tick, fault.ChannelClosed},
		{"clock set back", -tick, fault.ChannelClosed},
	} {
		x, r := open(t, channel.Profile{}, l)
		_, err := x.ch.Answer(r, start.Add(c.at))
		wantCode(t, "an answer "+c.name, err, c.want)
	}
	// Idle: every use starts it anew, asking whether it expired does not.
	x := authenticated(t, channel.Profile{}, l, 0x01)
	wrap := func(at time.Duration) error {
		_, err := x.ch.Wrap(ctx, nil, start.Add(at))
		return err
	}
	wantCode(t, "after 5 minutes", wrap(5*time.Minute), fault.OK)
	for at := 5 * time.Minute; at <= 10*time.Minute; at += 30 * time.Second {
		if x.ch.Expired(start.Add(at)) {
			t.Errorf("expired after %v", at)
		}
	}
	if !x.ch.Expired(start.Add(10*time.Minute + tick)) {
		t.Error("a channel that is only swept never becomes idle")
	}
	if x.ch.Expired(start.Add(6 * time.Minute)) {
		t.Error("Expired changed the channel")
	}
	wantCode(t, "idle for 5 minutes and more", wrap(10*time.Minute+tick), fault.ChannelClosed)
	wantCode(t, "once closed", wrap(6*time.Minute), fault.ChannelClosed)

	// Absolute: use does not prolong it.
	x = authenticated(t, channel.Profile{}, l, 0x01)
	for at := time.Duration(0); at <= time.Hour; at += 4 * time.Minute {
		wantCode(t, at.String(), wrap(at), fault.OK)
	}
	wantCode(t, "at one hour", wrap(time.Hour), fault.OK)
	wantCode(t, "after one hour", wrap(time.Hour+tick), fault.ChannelClosed)

	// A clock that is set back by less than the channel's age buys no time.
	x = authenticated(t, channel.Profile{}, l, 0x01)
	wantCode(t, "at 4 minutes", wrap(4*time.Minute), fault.OK)
	wantCode(t, "back at 1 minute", wrap(time.Minute), fault.OK)
	wantCode(t, "at 9 minutes", wrap(9*time.Minute), fault.OK)
	wantCode(t, "before the opening", wrap(-tick), fault.ChannelClosed)
}

// TestKeysReleased: however a channel ends, no derived key of it stays in the
// token.
func TestKeysReleased(t *testing.T) {
	ends := map[string]func(*pair){
		"Close":     func(x *pair) { x.ch.Close(x.tok); x.ch.Close(x.tok) },
		"life time": func(x *pair) { _, _ = x.ch.Wrap(ctx, nil, x.now.Add(2*time.Hour)) },
		"clock":     func(x *pair) { _, _ = x.ch.Wrap(ctx, nil, x.now.Add(-time.Hour)) },
		"failed MAC": func(x *pair) {
			_, _ = x.ch.Unwrap(ctx, []apdu.Response{{Data: make([]byte, 8), SW: apdu.Success}}, x.now)
		},
		"no MAC":      func(x *pair) { _, _ = x.ch.Unwrap(ctx, []apdu.Response{{SW: apdu.Success}}, x.now) },
		"sweep's way": func(x *pair) { _ = x.ch.Expired(x.now.Add(2 * time.Hour)); x.ch.Close(x.tok) },
	}
	for name, end := range ends {
		x := authenticated(t, channel.Profile{}, limits, 0x33)
		if _, err := x.ch.Wrap(ctx, []apdu.Command{{CLA: 0x80, INS: 0xE2, Data: []byte{1}}}, x.now); err != nil {
			t.Fatal(err)
		}
		if len(x.tok.live) != 2 { // S-ENC and S-MAC; S-RMAC was not needed yet
			t.Errorf("%s: %d keys are live before", name, len(x.tok.live))
		}
		end(x)
		if len(x.tok.live) != 0 {
			t.Errorf("%s: %d keys stay in the token", name, len(x.tok.live))
		}
		_, err := x.ch.Wrap(ctx, nil, x.now)
		wantCode(t, name+", then Wrap", err, fault.ChannelClosed)
	}
	x, r := open(t, channel.Profile{}, limits)
	r.Data[21] ^= 1 // in the card cryptogram
	if _, err := x.ch.Answer(r, x.now); err != nil {
		t.Fatal(err)
	}
	_, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), 0x33, x.now)
	wantCode(t, "a wrong card cryptogram", err, fault.ProofFailed)
	if len(x.tok.live) != 0 || x.ch.Authenticated() {
		t.Errorf("a wrong card cryptogram: %d keys stay in the token", len(x.tok.live))
	}
	x.ch.Close(x.tok) // a channel without keys can be closed, too
}

// TestTokenLost: while the token fails, nothing moves, so that the same script
// succeeds afterwards; a channel that was not yet authenticated is closed.
func TestTokenLost(t *testing.T) {
	lost := fault.New(fault.TokenUnavailable, "lost")
	x := authenticated(t, channel.Profile{}, limits, 0x33)
	script := []apdu.Command{{CLA: 0x80, INS: 0xE2, Data: []byte{1, 2}}, {CLA: 0x80, INS: 0xE2, Data: []byte{3}}}
	x.tok.fail = lost
	_, err := x.ch.Wrap(ctx, script, x.now)
	wantCode(t, "Wrap while the token is lost", err, fault.TokenUnavailable)
	x.tok.fail = nil
	out, err := x.ch.Wrap(ctx, script, x.now)
	wantCode(t, "Wrap afterwards", err, fault.OK)
	r := []apdu.Response{}
	for i, c := range out {
		data, err := x.card.receive(c)
		if err != nil || !bytes.Equal(data, script[i].Data) {
			t.Errorf("command %d: %X, %v", i, data, err)
		}
		r = append(r, x.card.respond(data, apdu.Success))
	}
	x.tok.fail = lost
	_, err = x.ch.Unwrap(ctx, r, x.now)
	wantCode(t, "Unwrap while the token is lost", err, fault.TokenUnavailable)
	x.tok.fail = nil
	_, err = x.ch.Unwrap(ctx, r, x.now)
	wantCode(t, "Unwrap afterwards", err, fault.OK)

	y, answer := open(t, channel.Profile{}, limits)
	if _, err := y.ch.Answer(answer, y.now); err != nil {
		t.Fatal(err)
	}
	y.tok.fail = errors.New("broken")
	_, err = y.ch.Authenticate(ctx, y.tok, y.tok.static(), 0x33, y.now)
	wantCode(t, "Authenticate with a broken token", err, fault.Internal)
	y.tok.fail = nil
	_, err = y.ch.Authenticate(ctx, y.tok, y.tok.static(), 0x33, y.now)
	wantCode(t, "Authenticate again", err, fault.ChannelClosed)
}
