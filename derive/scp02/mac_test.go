package scp02_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// TestReceivedTranscripts takes what other programs sent apart again: each C-MAC and
// R-MAC verifies, is the next ICV, and no bit of it may be another; the C-MAC of a
// command whose data are encrypted is that of the plain data.
func TestReceivedTranscripts(t *testing.T) {
	var file struct{ Cases []interopCase }
	derivetest.ReadVectors(t, "scp02.json", &file)
	var seen counts
	for _, c := range file.Cases {
		t.Run(c.ID, func(t *testing.T) { c.receive(t, &seen) })
	}
	if seen.commands < 80 || seen.encrypted < 20 || seen.responses < 15 {
		t.Errorf("%+v", seen)
	}
}

type counts struct{ commands, encrypted, responses int }

func (c interopCase) receive(t *testing.T, seen *counts) {
	o := c.open(t)
	inClear := o.Messaging
	inClear.Level = scp02.CMAC
	s := scp02.State{MAC: o.verify(t, received(t, inClear, scp02.State{}, c.Ext.Command)), Chained: true}
	responses := s.Responses()
	for _, m := range c.Commands {
		mac := received(t, o.Messaging, s, m.Wrapped)
		if mac.Encrypted {
			_, err := mac.Verify(ctx, o.tok)
			wantCode(t, m.Name, err, fault.TokenUnable)
			plain := parse(t, m.Plain)
			plain.CLA, plain.Data = plain.CLA|0x04, append(plain.Data, m.MAC...)
			mac = received(t, inClear, s, plain.Bytes())
			seen.encrypted++
		}
		s.MAC = o.verify(t, mac)
		if !bytes.Equal(s.MAC[:], m.MAC) {
			t.Fatalf("%s leaves %X, want %X", m.Name, s.MAC, m.MAC)
		}
		seen.commands++
		if o.Level&scp02.RMAC == 0 {
			continue
		}
		r, err := apdu.ParseResponse(m.Response)
		if err != nil {
			t.Fatal(err)
		}
		if mac, err = o.ResponseMAC(responses, parse(t, m.Plain), r); err != nil {
			t.Fatal(err)
		}
		responses.MAC = o.verify(t, mac)
		seen.responses++
	}
}

func parse(t *testing.T, b []byte) apdu.Command {
	t.Helper()
	c, err := apdu.ParseCommand(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func received(t *testing.T, m scp02.Messaging, s scp02.State, b []byte) scp02.MAC {
	t.Helper()
	mac, err := m.Received(s, parse(t, b))
	if err != nil {
		t.Fatalf("%X: %v", b, err)
	}
	return mac
}

// verify returns a MAC that verifies, and does not with a bit altered or a byte more or
// less.
func (o *opened) verify(t *testing.T, mac scp02.MAC) [8]byte {
	t.Helper()
	sent := mac.Sent
	for _, wrong := range [][]byte{
		nil, {}, sent[:7], append(bytes.Clone(sent), 0), append([]byte{sent[0] ^ 0x80}, sent[1:]...), append(bytes.Clone(sent[:7]), sent[7]^1), make([]byte, 8),
	} {
		mac.Sent = wrong
		if got, err := mac.Verify(ctx, o.tok); fault.CodeOf(err) != fault.ProofFailed || got != [8]byte{} {
			t.Errorf("%X for %X: %X, %v", wrong, sent, got, err)
		}
	}
	mac.Sent = sent
	next, err := mac.Verify(ctx, o.tok)
	if err != nil {
		t.Fatalf("the MAC %X: %v", sent, err)
	}
	return next
}

// TestReceived: what Wrap makes for each kind of card is taken apart as the card does, on
// each logical channel.
func TestReceived(t *testing.T) {
	for _, i := range []byte{0x05, 0x15, 0x1A, 0x35} {
		_, m := session(scp02.CMAC, i)
		var host, card scp02.State
		for _, c := range []apdu.Command{
			{CLA: 0x80, INS: 0xE2, Data: []byte{1, 2, 3}}, {CLA: 0x81, INS: 0xCA, Ne: 256}, {CLA: 0x83, INS: 0xE2, Data: make([]byte, 247)},
		} {
			w, next, err := m.Wrap(ctx, host, c)
			if err != nil {
				t.Fatal(err)
			}
			o, err := m.Received(card, w)
			if err != nil || !bytes.Equal(o.Data, c.Data) {
				t.Fatalf("i = %02X: %X, %v", i, o.Data, err)
			}
			mac, err := o.Verify(ctx, m.Token)
			if err != nil || mac != next.MAC {
				t.Errorf("i = %02X: %X (%v), want %X", i, mac, err, next.MAC)
			}
			host, card = next, scp02.State{MAC: mac, Chained: true}
		}
	}
}

// TestPaddedTwice states what is computed of a MAC that is padded twice, with an ICV that
// is encrypted and with one that is not.
func TestPaddedTwice(t *testing.T) {
	tok, m := session(scp02.CMAC, 0x15)
	o := scp02.MAC{Key: m.Keys.RMAC, ICV: [8]byte{7, 7: 9}, Header: unhex("80CA0066"), Lc: []byte{0}, Answer: unhex("0101"), After: unhex("9000"), PaddedTwice: true}
	for _, encrypted := range []bool{false, true} {
		padded := derive.Pad2(derive.Pad2(unhex("80CA00660001019000"), 8), 8)
		if len(padded) != 24 {
			t.Fatalf("%X", padded)
		}
		if o.EncryptICV = encrypted; encrypted {
			padded = append(o.ICV[:], padded...)
		} else {
			padded[0], padded[7] = padded[0]^7, padded[7]^9
		}
		var err error
		if o.Sent, err = tok.RetailMAC(ctx, m.Keys.RMAC, padded); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Verify(ctx, tok); err != nil {
			t.Error(err)
		}
	}
}

// TestReceivedInClear: a command that is not secured has no MAC, nor a response too short
// for one.
func TestReceivedInClear(t *testing.T) {
	_, m := session(scp02.CMAC|scp02.RMAC, 0x35)
	for name, c := range map[string]apdu.Command{
		"in clear":        {CLA: 0x80, INS: 0xE2, Data: make([]byte, 8)},
		"another class":   {CLA: 0xC4, INS: 0xE2, Data: make([]byte, 8)},
		"of ISO 7816":     {CLA: 0x0C, INS: 0xE2, Data: make([]byte, 8)},
		"short of a byte": {CLA: 0x84, INS: 0xE2, Data: make([]byte, 7)},
		"extended":        {CLA: 0x84, INS: 0xE2, Data: make([]byte, 8), Extended: true},
	} {
		_, err := m.Received(scp02.State{}, c)
		wantCode(t, name, err, fault.InvalidInput)
	}
	_, err := m.ResponseMAC(scp02.Responses{}, apdu.Command{}, apdu.Response{Data: make([]byte, 7), SW: apdu.Success})
	wantCode(t, "a response short of a byte", err, fault.ProofFailed)
	m.Level = 0x00
	_, err = m.Received(scp02.State{}, apdu.Command{CLA: 0x84, INS: 0xE2, Data: make([]byte, 8)})
	wantCode(t, "at level 00", err, fault.InvalidInput)
}
