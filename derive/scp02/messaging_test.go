package scp02_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

func TestDataMax(t *testing.T) {
	for l, want := range map[scp02.Level]int{0x00: 255, 0x01: 247, 0x03: 239, 0x11: 247, 0x13: 239} {
		_, m := session(l, 0x35)
		if got := m.DataMax(); got != want {
			t.Errorf("level %02X has room for %d, want %d", l, got, want)
		}
		c := apdu.Command{CLA: 0x80, INS: 0xE2, Data: make([]byte, want)}
		if w, _, err := m.Wrap(ctx, scp02.State{}, c); err != nil || len(w.Data) > 255 {
			t.Errorf("level %02X with %d bytes: %d, %v", l, want, len(w.Data), err)
		}
		c.Data = append(c.Data, 0)
		if _, _, err := m.Wrap(ctx, scp02.State{}, c); l != 0 && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("level %02X with a byte more: %v", l, err)
		}
	}
}

func TestRefusedCommands(t *testing.T) {
	_, m := session(scp02.CMAC, 0x15)
	before := scp02.State{MAC: [8]byte{9}, Chained: true, Blocks: 3}
	for name, c := range map[string]apdu.Command{
		"secured already":     {CLA: 0x84, INS: 0xE2},
		"of ISO 7816":         {CLA: 0x08, INS: 0xE2},
		"further interindust": {CLA: 0xC0, INS: 0xE2},
		"extended":            {CLA: 0x80, INS: 0xE2, Data: []byte{1}, Extended: true},
	} {
		_, after, err := m.Wrap(ctx, before, c)
		wantCode(t, name, err, fault.InvalidInput)
		if after != before {
			t.Errorf("%s moves the state", name)
		}
	}
}

// TestLevelZero: without C-MAC nothing changes.
func TestLevelZero(t *testing.T) {
	_, m := session(0, 0x15)
	c := apdu.Command{CLA: 0x84, INS: 0xE2, Data: []byte{1}}
	w, s, err := m.Wrap(ctx, scp02.State{Blocks: 5}, c)
	if err != nil || !bytes.Equal(w.Bytes(), c.Bytes()) || s != (scp02.State{Blocks: 5}) {
		t.Errorf("%X, %+v, %v", w.Bytes(), s, err)
	}
	r := apdu.Response{Data: []byte{1}, SW: apdu.Success}
	if u, _, err := m.Unwrap(ctx, scp02.Responses{}, c, r); err != nil || !bytes.Equal(u.Bytes(), r.Bytes()) {
		t.Errorf("%X, %v", u.Bytes(), err)
	}
}

// TestLogicalChannel: the channel number is on the wire and under no C-MAC.
func TestLogicalChannel(t *testing.T) {
	for _, i := range []byte{0x15, 0x1A} {
		_, m := session(scp02.CMAC, i)
		var macs [][8]byte
		for _, cla := range []byte{0x80, 0x81, 0x82, 0x83} {
			w, s, err := m.Wrap(ctx, scp02.State{}, apdu.Command{CLA: cla, INS: 0xE2})
			if err != nil || w.CLA != cla|0x04 {
				t.Fatalf("%+v, %v", w, err)
			}
			macs = append(macs, s.MAC)
		}
		for _, mac := range macs {
			if mac != macs[0] {
				t.Error("the channel number is under the C-MAC")
			}
		}
	}
}

// TestChain states the MAC input of each kind of card, by computing it from the parts
// of the retail MAC here.
func TestChain(t *testing.T) {
	c := apdu.Command{CLA: 0x80, INS: 0xE2, P1: 1, P2: 2, Data: unhex("AABBCC")}
	for _, v := range []struct {
		i     byte
		input string
	}{
		{0x15, "84E201020BAABBCC"}, {0x05, "84E201020BAABBCC"}, {0x1A, "80E2010203AABBCC"},
	} {
		tok, m := session(scp02.CMAC, v.i)
		icv := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
		first := derivetest.Cipher(key.TDEA3, tok.Value(m.Keys.MAC.Left()))
		for _, chained := range []bool{false, true} {
			x := icv
			if chained && v.i&0x10 != 0 {
				first.Encrypt(x[:], x[:]) // K1|K1|K1 is single DES
			}
			message := derive.Pad2(unhex(v.input), 8)
			for n := range x {
				message[n] ^= x[n]
			}
			want, err := tok.RetailMAC(ctx, m.Keys.MAC, message)
			if err != nil {
				t.Fatal(err)
			}
			_, got, err := m.Wrap(ctx, scp02.State{MAC: icv, Chained: chained}, c)
			if err != nil || !bytes.Equal(got.MAC[:], want) || !got.Chained {
				t.Errorf("i = %02X, chained %t: %X (%v), want %X", v.i, chained, got.MAC, err, want)
			}
		}
	}
	_, m := session(scp02.CMAC, 0x1A)
	_, empty, err := m.Wrap(ctx, scp02.State{}, apdu.Command{CLA: 0x80, INS: 0xCA})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := m.Token.RetailMAC(ctx, m.Keys.MAC, unhex("80CA000080000000"))
	if !bytes.Equal(empty.MAC[:], want) {
		t.Error("the C-MAC of a command without data covers more than its header")
	}
}

// TestImplicit: the first C-MAC is over the MAC of the AID, which is not encrypted, and
// the next one chains.
func TestImplicit(t *testing.T) {
	_, m := session(scp02.CMAC, 0x1A)
	aid := unhex("A000000003000000")
	s, err := m.Implicit(ctx, aid)
	if err != nil {
		t.Fatal(err)
	}
	mac, _ := m.Token.RetailMAC(ctx, m.Keys.MAC, derive.Pad2(aid, 8))
	if s.Chained || !bytes.Equal(s.MAC[:], mac) {
		t.Errorf("%+v, want the MAC %X", s, mac)
	}
	_, err = m.Implicit(ctx, nil)
	wantCode(t, "no AID", err, fault.InvalidInput)
	_, _, err = m.ExternalAuthenticate(ctx, make([]byte, 8), scp02.Answer{CardChallenge: make([]byte, 6)})
	wantCode(t, "EXTERNAL AUTHENTICATE", err, fault.InvalidInput)
	_, m = session(scp02.CMAC, 0x15)
	_, err = m.Implicit(ctx, aid)
	wantCode(t, "an explicit card", err, fault.InvalidInput)
}

// TestBlocksMax: a key is not used beyond its limit, and used up to it.
func TestBlocksMax(t *testing.T) {
	_, m := session(scp02.CMAC|scp02.RMAC, 0x35)
	c := apdu.Command{CLA: 0x80, INS: 0xE2} // 2 blocks with the ICV's
	at := scp02.State{Chained: true, Blocks: scp02.BlocksMax - 2}
	if _, s, err := m.Wrap(ctx, at, c); err != nil || s.Blocks != scp02.BlocksMax {
		t.Errorf("at the limit: %+v, %v", s, err)
	}
	at.Blocks++
	_, _, err := m.Wrap(ctx, at, c)
	wantCode(t, "a command beyond the limit", err, fault.ChannelClosed)
	r := apdu.Response{Data: make([]byte, 8), SW: apdu.Success}
	_, _, err = m.Unwrap(ctx, scp02.Responses{Blocks: scp02.BlocksMax}, c, r)
	wantCode(t, "a response beyond the limit", err, fault.ChannelClosed)
}

// respond makes what a card answers, with its R-MAC.
func respond(t *testing.T, m scp02.Messaging, s scp02.Responses, covered string, data []byte, sw apdu.SW) apdu.Response {
	t.Helper()
	message := derive.Pad2(unhex(covered), 8)
	for i := range s.MAC {
		message[i] ^= s.MAC[i]
	}
	mac, err := m.Token.RetailMAC(ctx, m.Keys.RMAC, message)
	if err != nil {
		t.Fatal(err)
	}
	return apdu.Response{Data: append(bytes.Clone(data), mac...), SW: sw}
}

// TestUnwrap states what an R-MAC covers, and that every other response is the same
// failed proof.
func TestUnwrap(t *testing.T) {
	_, m := session(scp02.CMAC|scp02.RMAC, 0x35)
	s := scp02.Responses{MAC: [8]byte{7}}
	c := apdu.Command{CLA: 0x81, INS: 0xCA, P1: 0, P2: 0x66, Data: unhex("0102"), Ne: 256}
	good := respond(t, m, s, "80CA006602010203AABBCC9000", unhex("AABBCC"), apdu.Success)
	u, next, err := m.Unwrap(ctx, s, c, good)
	if err != nil || !bytes.Equal(u.Data, unhex("AABBCC")) || !bytes.Equal(next.MAC[:], good.Data[3:]) || next.Blocks != 2 {
		t.Fatalf("%X, %+v, %v", u.Bytes(), next, err)
	}
	refused := func(what string, m scp02.Messaging, s scp02.Responses, c apdu.Command, r apdu.Response) {
		t.Helper()
		u, after, err := m.Unwrap(ctx, s, c, r)
		if fault.CodeOf(err) != fault.ProofFailed || after != s || u.Data != nil {
			t.Errorf("%s: %X, %+v, %v", what, u.Bytes(), after, err)
		}
	}
	for bit := range len(good.Data) * 8 {
		b := apdu.Response{Data: bytes.Clone(good.Data), SW: good.SW}
		b.Data[bit/8] ^= 1 << (bit % 8)
		refused("a flipped bit", m, s, c, b)
	}
	refused("another status", m, s, c, apdu.Response{Data: good.Data, SW: 0x6310})
	refused("another command", m, s, apdu.Command{CLA: 0x80, INS: 0xCB, P2: 0x66, Data: unhex("0102")}, good)
	refused("another chain", m, next, c, good)
	for n := range 8 {
		refused("truncated", m, s, c, apdu.Response{Data: good.Data[:n], SW: apdu.Success})
	}
	refused("a bare warning", m, s, c, apdu.Response{SW: 0x6310})
	refused("an error with a wrong R-MAC", m, s, c, apdu.Response{Data: make([]byte, 8), SW: 0x6A88})
	// A bare error passes and moves nothing; one with its R-MAC moves the chain.
	if u, after, err := m.Unwrap(ctx, s, c, apdu.Response{SW: 0x6982}); err != nil || u.SW != 0x6982 || after != s {
		t.Errorf("a bare error: %+v, %+v, %v", u, after, err)
	}
	failed := respond(t, m, s, "80CA0066020102006A88", nil, 0x6A88)
	if u, after, err := m.Unwrap(ctx, s, c, failed); err != nil || u.SW != 0x6A88 || after == s {
		t.Errorf("an error with its R-MAC: %+v, %+v, %v", u, after, err)
	}
}

// TestLongResponse: the length of 256 bytes is covered as 00.
func TestLongResponse(t *testing.T) {
	_, m := session(scp02.CMAC|scp02.RMAC, 0x75)
	data := make([]byte, 256)
	covered := "80CA000000" + "00" + string(bytes.Repeat([]byte("00"), 256)) + "9000"
	r := respond(t, m, scp02.Responses{}, covered, data, apdu.Success)
	if _, _, err := m.Unwrap(ctx, scp02.Responses{}, apdu.Command{CLA: 0x80, INS: 0xCA}, r); err != nil {
		t.Error(err)
	}
}

// FuzzUnwrap: no response panics, and without the R-MAC key none that carries data is
// accepted at a level with R-MAC.
func FuzzUnwrap(f *testing.F) {
	f.Add([]byte{0x90, 0x00}, byte(0x13), []byte{0x80, 0xCA, 0, 0})
	f.Add(append(make([]byte, 24), 0x90, 0x00), byte(0x11), []byte{0x80, 0xCA, 0, 0})
	f.Add([]byte{0x6A, 0x88}, byte(0x11), []byte{0x80, 0xE2, 0, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte, level byte, command []byte) {
		r, err := apdu.ParseResponse(b)
		if err != nil {
			return
		}
		c, err := apdu.ParseCommand(command)
		if err != nil {
			return
		}
		_, m := session(scp02.Level(level), 0x35)
		u, _, err := m.Unwrap(ctx, scp02.Responses{}, c, r)
		switch {
		case err != nil && fault.CodeOf(err) != fault.ProofFailed:
			t.Fatalf("code %s", fault.CodeOf(err))
		case err == nil && scp02.Level(level)&scp02.RMAC != 0 && len(u.Data) > 0:
			t.Fatalf("a response without a key's R-MAC is accepted: %X", b)
		}
	})
}

// TestKeyBlockRefused: no key block without a session DEK, of another key or for an
// implicitly initiated session, whose cards want CBC.
func TestKeyBlockRefused(t *testing.T) {
	tok := new(derivetest.Token)
	keys, err := scp02.SessionKeys(gpKeys.add(tok), 1)
	if err != nil {
		t.Fatal(err)
	}
	k := tok.Add("new", key.TDEA2, derive.Transport, gpKeys.ENC)
	for name, c := range map[string]struct {
		m scp02.Messaging
		k *derive.Key
	}{
		"implicit": {scp02.Messaging{Keys: keys, I: 0x1A}, k},
		"no DEK":   {scp02.Messaging{Keys: scp02.Session{}, I: 0x15}, k},
		"AES":      {scp02.Messaging{Keys: keys, I: 0x15}, tok.Add("aes", key.AES128, derive.Transport, gpKeys.ENC)},
	} {
		_, err := c.m.KeyBlock(ctx, tok, c.k)
		wantCode(t, name, err, fault.InvalidInput)
	}
}
