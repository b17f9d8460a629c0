package channel_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
)

func command(data ...byte) apdu.Command { return apdu.Command{CLA: 0x80, INS: 0xE2, Data: data} }

// TestRefusedWrapLeavesNoTrace: scripts that are refused, whole or at their last
// command, leave the next script's bytes what they would have been.
func TestRefusedWrapLeavesNoTrace(t *testing.T) {
	good := []apdu.Command{command(1, 2, 3), command(), command(4)}
	want, err := authenticated(t, channel.Profile{}, limits, 0x33).ch.Wrap(ctx, good, start)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]apdu.Command{
		"secured already":        {{CLA: 0x84, INS: 0xE2}},
		"a bad last command":     {command(1), command(2), {CLA: 0xC0, INS: 0xE2}},
		"more than extended":     {command(1), {CLA: 0x80, INS: 0xE2, Data: make([]byte, 65530), Extended: true}},
		"more than PendingMax":   make([]apdu.Command, limits.PendingMax+1),
		"nothing":                nil,
		"nothing but an RFU CLA": {{CLA: 0x8F}},
	} {
		x := authenticated(t, channel.Profile{}, limits, 0x33)
		_, err := x.ch.Wrap(ctx, bad, start)
		if (err == nil) != (bad == nil) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := x.ch.Wrap(ctx, good, start)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s changed what follows: %s", name, d)
		}
		// Only commands that were returned wait for responses.
		_, err = x.ch.Unwrap(ctx, make([]apdu.Response, len(good)+1), start)
		wantCode(t, name+", one response too many", err, fault.ChannelState)
	}
}

// TestPendingOrder: the responses of a whole script are checked each under the
// chaining value of its own command, in one call, one by one, or in any parts.
func TestPendingOrder(t *testing.T) {
	for _, level := range []scp03.Level{0x11, 0x13, 0x33} {
		for _, parts := range [][]int{{5}, {1, 1, 1, 1, 1}, {2, 3}, {0, 4, 0, 1}} {
			x := authenticated(t, channel.Profile{}, limits, level)
			script := []apdu.Command{command(1), command(2, 2), command(), command(4), command(5)}
			out, err := x.ch.Wrap(ctx, script, start)
			if err != nil {
				t.Fatal(err)
			}
			var answers, want []apdu.Response
			for i, c := range out {
				if _, err := x.card.receive(c); err != nil {
					t.Fatal(err)
				}
				plain := apdu.Response{Data: bytes.Repeat([]byte{byte(i)}, 3*i), SW: apdu.Success}
				switch i {
				case 2:
					plain.SW = 0x6310
				case 3:
					plain = apdu.Response{Data: nil, SW: 0x6A80} // an error in the middle carries no MAC
				}
				answers, want = append(answers, x.card.respond(plain.Data, plain.SW)), append(want, plain)
			}
			var got []apdu.Response
			for _, n := range parts {
				u, err := x.ch.Unwrap(ctx, answers[:n], start)
				if err != nil {
					t.Fatalf("level %02X in parts %v: %v", level, parts, err)
				}
				got, answers = append(got, u...), answers[n:]
			}
			same := cmp.Comparer(func(a, b apdu.Response) bool { return bytes.Equal(a.Bytes(), b.Bytes()) })
			if d := cmp.Diff(want, got, same); d != "" {
				t.Errorf("level %02X in parts %v: %s", level, parts, d)
			}
		}
	}
}

// TestResponsesMisused: a replayed, reordered, withheld or altered response ends
// the channel with one opaque error.
func TestResponsesMisused(t *testing.T) {
	for name, misuse := range map[string]func(r []apdu.Response) []apdu.Response{
		"reordered":          func(r []apdu.Response) []apdu.Response { return []apdu.Response{r[1], r[0]} },
		"first withheld":     func(r []apdu.Response) []apdu.Response { return r[1:] },
		"first sent twice":   func(r []apdu.Response) []apdu.Response { return []apdu.Response{r[0], r[0]} },
		"status word":        func(r []apdu.Response) []apdu.Response { r[0].SW = 0x6200; return r },
		"last byte":          func(r []apdu.Response) []apdu.Response { r[1].Data[len(r[1].Data)-1] ^= 1; return r },
		"error with payload": func(r []apdu.Response) []apdu.Response { r[1].SW = 0x6A80; return r },
		"cut to nothing":     func(r []apdu.Response) []apdu.Response { r[1].Data = nil; return r },
	} {
		x := authenticated(t, channel.Profile{}, limits, 0x33)
		out, err := x.ch.Wrap(ctx, []apdu.Command{command(1), command(2)}, start)
		if err != nil {
			t.Fatal(err)
		}
		var r []apdu.Response
		for _, c := range out {
			data, err := x.card.receive(c)
			if err != nil {
				t.Fatal(err)
			}
			r = append(r, x.card.respond(data, apdu.Success))
		}
		_, err = x.ch.Unwrap(ctx, misuse(r), start)
		wantCode(t, name, err, fault.ProofFailed)
		if err != nil && err.Error() != fault.Proof().Error() {
			t.Errorf("%s: the error says more than it may: %v", name, err)
		}
		_, err = x.ch.Wrap(ctx, []apdu.Command{command(3)}, start)
		wantCode(t, name+", then Wrap", err, fault.ChannelClosed)
	}
}

// TestReplayAfterUnwrap: a response that was taken is not taken again for the
// next command, though that command is the same.
func TestReplayAfterUnwrap(t *testing.T) {
	x := authenticated(t, channel.Profile{}, limits, 0x11)
	var last []apdu.Response
	for range 3 {
		out, err := x.ch.Wrap(ctx, []apdu.Command{command(1)}, start)
		if err != nil {
			t.Fatal(err)
		}
		data, err := x.card.receive(out[0])
		if err != nil {
			t.Fatal(err)
		}
		last = []apdu.Response{x.card.respond(data, apdu.Success)}
		if _, err := x.ch.Unwrap(ctx, last, start); err != nil {
			t.Fatal(err)
		}
	}
	_, err := x.ch.Unwrap(ctx, last, start)
	wantCode(t, "a response without a command", err, fault.ChannelState)
	if _, err := x.ch.Wrap(ctx, []apdu.Command{command(1)}, start); err != nil {
		t.Fatal(err)
	}
	_, err = x.ch.Unwrap(ctx, last, start)
	wantCode(t, "a replayed response", err, fault.ProofFailed)
}

// TestPendingMax: a caller who never returns responses is stopped, and goes on
// after returning some.
func TestPendingMax(t *testing.T) {
	l := limits
	l.PendingMax = 3
	x := authenticated(t, channel.Profile{}, l, 0x01)
	for range 3 {
		if _, err := x.ch.Wrap(ctx, []apdu.Command{command(1)}, start); err != nil {
			t.Fatal(err)
		}
	}
	_, err := x.ch.Wrap(ctx, []apdu.Command{command(1)}, start)
	wantCode(t, "one too many", err, fault.TooLarge)
	if _, err := x.ch.Unwrap(ctx, []apdu.Response{{SW: apdu.Success}, {SW: apdu.Success}}, start); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ch.Wrap(ctx, []apdu.Command{command(1), command(2)}, start); err != nil {
		t.Errorf("after two responses: %v", err)
	}
}

// TestLevels: Authenticate refuses a level that the card's i does not offer, and
// says which level it set.
func TestLevels(t *testing.T) {
	for _, c := range []struct {
		i     byte
		level scp03.Level
		want  fault.Code
	}{
		{0x00, 0x00, fault.OK}, {0x00, 0x01, fault.OK}, {0x00, 0x03, fault.OK},
		{0x00, 0x11, fault.InvalidInput}, {0x00, 0x33, fault.InvalidInput},
		{0x20, 0x11, fault.OK}, {0x20, 0x13, fault.OK}, {0x20, 0x33, fault.InvalidInput},
		{0x60, 0x33, fault.OK}, {0x60, 0x31, fault.InvalidInput}, {0x60, 0x80, fault.InvalidInput},
	} {
		x, _ := open(t, channel.Profile{}, limits)
		x.card.i = c.i
		r := x.card.initialize(scp03.InitializeUpdate(0x30, bytes.Repeat([]byte{0x4C}, 8)))
		if _, err := x.ch.Answer(r, start); err != nil {
			t.Fatal(err)
		}
		_, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), c.level, start)
		wantCode(t, "level", err, c.want)
		if err == nil && x.ch.Level() != c.level {
			t.Errorf("the level is %02X, want %02X", x.ch.Level(), c.level)
		}
		if err != nil && x.tok.Calls != 0 {
			t.Errorf("i = %02X, level %02X: the token was used", c.i, c.level)
		}
	}
}

// TestCryptogramBits: every bit of the card cryptogram, both modes. One use of
// the token verifies; nothing that proves the host is computed.
func TestCryptogramBits(t *testing.T) {
	for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
		for bit := range 8 * int(mode) {
			x, r := open(t, channel.Profile{Mode: mode}, limits)
			r.Data[13+int(mode)+bit/8] ^= 1 << (bit % 8)
			if _, err := x.ch.Answer(r, start); err != nil {
				t.Fatal(err)
			}
			cmd, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), 0x33, start)
			wantCode(t, "a flipped bit", err, fault.ProofFailed)
			if x.tok.Calls != 1 || cmd.Data != nil {
				t.Fatalf("bit %d: %d uses of the token, command %X", bit, x.tok.Calls, cmd.Data)
			}
		}
	}
}
