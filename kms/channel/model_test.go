package channel_test

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
)

// machine drives a channel and its card model at random and keeps what must
// hold: the card accepts every command that Wrap returned, in order, with the
// data that went in; Unwrap returns what the card sent; a refused call changes
// nothing; after an alteration everything is refused.
type machine struct {
	*pair
	sent    []apdu.Response // protected responses whose commands are out
	plain   []apdu.Response // what they protect
	isEnded bool
}

func (m *machine) wrap(rt *rapid.T) {
	script := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 5).Draw(rt, "script")
	cmds := make([]apdu.Command, len(script))
	for i, d := range script {
		cmds[i] = command(d...)
		cmds[i].Extended = len(d) > 255
	}
	out, err := m.ch.Wrap(ctx, cmds, m.now)
	if m.isEnded {
		m.refused(rt, err, fault.ChannelClosed)
		return
	}
	if err != nil {
		rt.Fatalf("wrapping: %v", err)
	}
	for i, c := range out {
		// Through bytes, as on a wire.
		parsed, err := apdu.ParseCommand(c.Bytes())
		if err != nil {
			rt.Fatal(err)
		}
		data, err := m.card.receive(parsed)
		if err != nil || !bytes.Equal(data, script[i]) {
			rt.Fatalf("the card reads %X (%v), want %X", data, err, script[i])
		}
		r := apdu.Response{
			Data: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "response"),
			SW:   rapid.SampledFrom([]apdu.SW{0x9000, 0x9000, 0x6310, 0x6A88}).Draw(rt, "status"),
		}
		if r.SW == 0x6A88 {
			r.Data = nil
		}
		m.plain, m.sent = append(m.plain, r), append(m.sent, m.card.respond(r.Data, r.SW))
	}
}

func (m *machine) unwrap(rt *rapid.T) {
	n := rapid.IntRange(0, len(m.sent)).Draw(rt, "count")
	got, err := m.ch.Unwrap(ctx, m.sent[:n], m.now)
	if m.isEnded {
		m.refused(rt, err, fault.ChannelClosed)
		return
	}
	if err != nil {
		rt.Fatalf("unwrapping: %v", err)
	}
	for i, r := range got {
		if !bytes.Equal(r.Bytes(), m.plain[i].Bytes()) {
			rt.Fatalf("response %d is %X, want %X", i, r.Bytes(), m.plain[i].Bytes())
		}
	}
	m.sent, m.plain = m.sent[n:], m.plain[n:]
}

// malformed calls must change nothing; that they did not shows in what follows.
func (m *machine) malformed(rt *rapid.T) {
	want := fault.InvalidInput
	if m.isEnded {
		want = fault.ChannelClosed
	}
	bad := command(rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(rt, "data")...)
	bad.CLA = 0x84
	_, err := m.ch.Wrap(ctx, []apdu.Command{command(1), bad}, m.now)
	m.refused(rt, err, want)
	if want == fault.InvalidInput {
		want = fault.ChannelState
	}
	_, err = m.ch.Unwrap(ctx, make([]apdu.Response, len(m.sent)+1), m.now)
	m.refused(rt, err, want)
}

// alter flips one bit of one pending response with a MAC. At levels without
// R-MAC nothing protects a response and the model leaves it alone.
func (m *machine) alter(rt *rapid.T) {
	for i, r := range m.sent {
		if len(r.Data) == 0 || m.ch.Level()&scp03.RMAC == 0 || m.isEnded {
			continue
		}
		batch := append([]apdu.Response{}, m.sent[:i+1]...)
		batch[i].Data = bytes.Clone(r.Data)
		bit := rapid.IntRange(0, 8*len(r.Data)-1).Draw(rt, "bit")
		batch[i].Data[bit/8] ^= 1 << (bit % 8)
		_, err := m.ch.Unwrap(ctx, batch, m.now)
		m.refused(rt, err, fault.ProofFailed)
		m.isEnded = true
		return
	}
}

// wait moves the clock, sometimes back, and uses the channel, so that only the
// absolute life time can end it.
func (m *machine) wait(rt *rapid.T) {
	d := time.Duration(rapid.IntRange(-60, 240).Draw(rt, "seconds")) * time.Second
	if m.now.Add(d).Before(start) {
		return
	}
	m.now = m.now.Add(d)
	if m.now.Sub(start) > limits.Absolute {
		m.isEnded = true
	}
	want := fault.OK
	if m.isEnded {
		want = fault.ChannelClosed
	}
	_, err := m.ch.Wrap(ctx, nil, m.now)
	m.refused(rt, err, want)
}

func (m *machine) refused(rt *rapid.T, err error, want fault.Code) {
	rt.Helper()
	if got := fault.CodeOf(err); got != want {
		rt.Fatalf("%s (%v), want %s", got, err, want)
	}
}

// TestModel runs the machine at every level, mode and option that the card model
// knows.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom([]scp03.Mode{scp03.S8, scp03.S16}).Draw(rt, "mode")
		level := rapid.SampledFrom([]scp03.Level{0x01, 0x03, 0x11, 0x13, 0x33}).Draw(rt, "level")
		m := &machine{pair: authenticated(t, channel.Profile{Mode: mode}, limits, level)}
		rt.Repeat(map[string]func(*rapid.T){
			"wrap": m.wrap, "wrap more": m.wrap, "unwrap": m.unwrap, "unwrap more": m.unwrap,
			"malformed": m.malformed, "alter": m.alter, "wait": m.wait,
			"": func(rt *rapid.T) {
				if m.isEnded && len(m.tok.live) != 0 {
					rt.Fatalf("%d keys stay in the token after the end", len(m.tok.live))
				}
			},
		})
	})
}
