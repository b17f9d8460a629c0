package scp03_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

var ctx = context.Background()

type octets = derivetest.Octets

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// aes adds a plain AES key of whatever size the value has.
func aes(t testing.TB, tok *derivetest.Token, label string, c derive.Class, value []byte) *derive.Key {
	t.Helper()
	a, err := key.AESOfSize(len(value))
	if err != nil {
		t.Fatal(err)
	}
	return tok.Add(label, a, c, value)
}

// session returns a Messaging whose keys are these plain values.
func session(t testing.TB, l scp03.Level, m scp03.Mode) (*derivetest.Token, scp03.Messaging) {
	t.Helper()
	tok := new(derivetest.Token)
	return tok, scp03.Messaging{Token: tok, Level: l, Mode: m, Keys: scp03.Session{
		ENC:  aes(t, tok, "S-ENC", derive.SessionENC, unhex("000102030405060708090A0B0C0D0E0F")),
		MAC:  aes(t, tok, "S-MAC", derive.SessionMAC, unhex("101112131415161718191A1B1C1D1E1F")),
		RMAC: aes(t, tok, "S-RMAC", derive.SessionMAC, unhex("202122232425262728292A2B2C2D2E2F")),
	}}
}

// respond makes what a card answers to the command that left state s: data
// already padded by the caller, encrypted if the level says so, with its R-MAC.
func respond(t testing.TB, m scp03.Messaging, s scp03.State, padded []byte, sw apdu.SW) apdu.Response {
	t.Helper()
	data := padded
	if m.Level&scp03.REncryption != 0 && len(padded) > 0 {
		// CBC with a zero IV over the counter block | data starts with the ICV.
		block := make([]byte, 16)
		block[0] = 0x80
		block[12], block[13], block[14], block[15] = byte(s.Counter>>24), byte(s.Counter>>16), byte(s.Counter>>8), byte(s.Counter)
		out, err := m.Token.Encrypt(ctx, m.Keys.ENC, append(block, padded...))
		if err != nil {
			t.Fatal(err)
		}
		data = out[16:]
	}
	mac, err := m.Token.MAC(ctx, m.Keys.RMAC, bytes.Join([][]byte{s.Chaining[:], data, {byte(sw >> 8), byte(sw)}}, nil))
	if err != nil {
		t.Fatal(err)
	}
	return apdu.Response{Data: append(bytes.Clone(data), mac[:m.Mode]...), SW: sw}
}

// wrap wraps a command that must be accepted.
func wrap(t testing.TB, m scp03.Messaging, s scp03.State, c apdu.Command) (apdu.Command, scp03.State) {
	t.Helper()
	w, next, err := m.Wrap(ctx, s, c)
	if err != nil {
		t.Fatal(err)
	}
	return w, next
}
