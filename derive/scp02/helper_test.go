package scp02_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/hex"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
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

type staticKeys struct{ ENC, MAC, DEK octets }

// add makes the plain card keys of a vector.
func (k staticKeys) add(tok *derivetest.Token) (s scp02.Static) {
	s.ENC = tok.Add("K-ENC", key.TDEA2, derive.StaticCBC, k.ENC)
	s.MAC = tok.Add("K-MAC", key.TDEA2, derive.StaticCBC, k.MAC)
	if k.DEK != nil {
		s.DEK = tok.Add("K-DEK", key.TDEA2, derive.StaticCBC, k.DEK)
	}
	return s
}

// retailKey makes a plain key of the retail MAC from its 16 bytes.
func retailKey(tok *derivetest.Token, label string, v []byte) derive.RetailKey {
	return derive.RetailFromRoots(
		tok.Add(label, key.TDEA2, derive.SessionRetail, v),
		tok.Add(label+" left", key.TDEA3, derive.SessionRetailLeft, bytes.Repeat(v[:8], 3)))
}

// rawKeys returns session keys of these values.
func rawKeys(tok *derivetest.Token, enc, mac, rmac []byte) scp02.Session {
	return scp02.Session{
		ENC: tok.Add("S-ENC", key.TDEA2, derive.SessionENC, enc),
		MAC: retailKey(tok, "S-MAC", mac), RMAC: retailKey(tok, "S-RMAC", rmac),
	}
}

// session returns a Messaging whose keys are plain values.
func session(l scp02.Level, i byte) (*derivetest.Token, scp02.Messaging) {
	tok := new(derivetest.Token)
	return tok, scp02.Messaging{Token: tok, Level: l, I: i, Keys: rawKeys(tok,
		unhex("000102030405060708090A0B0C0D0E0F"), unhex("101112131415161718191A1B1C1D1E1F"), unhex("202122232425262728292A2B2C2D2E2F"))}
}

// opened is a session that a vector opened, with its plain keys.
type opened struct {
	tok *derivetest.Token
	scp02.Messaging
	state     scp02.State
	responses scp02.Responses
}

// open verifies the card of a vector and returns EXTERNAL AUTHENTICATE. aid is empty
// where the card challenge is random.
func open(t *testing.T, k staticKeys, host, answer []byte, l scp02.Level, i byte, aid []byte) (*opened, []byte) {
	t.Helper()
	if !scp02.ValidLevel(l, i) {
		t.Fatalf("a card of i = %02X does not know level %02X", i, l)
	}
	tok := new(derivetest.Token)
	a, err := scp02.ParseAnswer(answer)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := scp02.SessionKeys(k.add(tok), a.Counter)
	if err != nil {
		t.Fatal(err)
	}
	if err := scp02.VerifyCard(ctx, tok, keys, host, a); err != nil {
		t.Fatalf("card cryptogram: %v", err)
	}
	if i&scp02.IPseudo != 0 && len(aid) > 0 {
		if err := scp02.VerifyChallenge(ctx, tok, keys, a, aid); err != nil {
			t.Fatalf("card challenge: %v", err)
		}
	}
	o := &opened{tok: tok, Messaging: scp02.Messaging{Token: tok, Keys: keys, Level: l, I: i}}
	cmd, state, err := o.ExternalAuthenticate(ctx, host, a)
	if err != nil {
		t.Fatal(err)
	}
	o.state, o.responses = state, state.Responses()
	return o, cmd.Bytes()
}

// wrap wraps a plain command that must be accepted.
func (o *opened) wrap(t *testing.T, plain []byte) apdu.Command {
	t.Helper()
	c, err := apdu.ParseCommand(plain)
	if err != nil {
		t.Fatal(err)
	}
	w, next, err := o.Wrap(ctx, o.state, c)
	if err != nil {
		t.Fatal(err)
	}
	o.state = next
	return w
}

// unwrap unwraps a response that must be accepted.
func (o *opened) unwrap(t *testing.T, plain, response []byte) []byte {
	t.Helper()
	c, err := apdu.ParseCommand(plain)
	if err != nil {
		t.Fatal(err)
	}
	r, err := apdu.ParseResponse(response)
	if err != nil {
		t.Fatal(err)
	}
	u, next, err := o.Unwrap(ctx, o.responses, c, r)
	if err != nil {
		t.Fatalf("the response to %X: %v", plain, err)
	}
	o.responses = next
	return u.Bytes()
}

// decrypt is what the card does with C-DECRYPTION data.
func decrypt(k, data []byte) []byte {
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(derivetest.Cipher(key.TDEA2, k), make([]byte, 8)).CryptBlocks(out, data)
	return out[:bytes.LastIndexByte(out, 0x80)]
}
