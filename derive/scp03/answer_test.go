package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// wantLength states Table 7-3 of the answer once more, as a table of four.
func wantLength(m scp03.Mode, i byte) int {
	switch {
	case m == scp03.S8 && i&0x10 == 0:
		return 29
	case m == scp03.S8:
		return 32
	case i&0x10 == 0:
		return 45
	}
	return 48
}

// TestParseAnswer gives every length from 0 to 64 for every i in both modes:
// exactly one length is an answer, and only where i names the mode.
func TestParseAnswer(t *testing.T) {
	accepted := 0
	for _, m := range []scp03.Mode{scp03.S8, scp03.S16} {
		for i := range 256 {
			for n := range 65 {
				b := make([]byte, n)
				for j := range b {
					b[j] = byte(j)
				}
				if n > 12 {
					b[11], b[12] = 0x03, byte(i)
				}
				a, err := scp03.ParseAnswer(b, m)
				ok := n == wantLength(m, byte(i)) && (i&0x01 != 0) == (m == scp03.S16)
				if ok != (err == nil) {
					t.Fatalf("S%d, i = %02X, %d bytes: %v", 8*m, i, n, err)
				}
				if err != nil {
					if fault.CodeOf(err) != fault.InvalidInput {
						t.Fatalf("S%d, i = %02X, %d bytes: code %s", 8*m, i, n, fault.CodeOf(err))
					}
					continue
				}
				accepted++
				if got := encodeAnswer(a); !bytes.Equal(got, b) {
					t.Fatalf("parsing and encoding gives %X, want %X", got, b)
				}
			}
		}
	}
	if accepted != 256 {
		t.Errorf("%d answers were accepted, want one per i", accepted)
	}
}

func encodeAnswer(a scp03.Answer) []byte {
	out := append(bytes.Clone(a.KDD), a.KVN, 0x03, a.I)
	out = append(append(out, a.CardChallenge...), a.CardCryptogram...)
	if a.CounterIncluded {
		out = append(out, byte(a.Counter>>16), byte(a.Counter>>8), byte(a.Counter))
	}
	return out
}

// TestParseAnswerProtocol: another protocol's answer is refused whatever its
// length, and the parser keeps no reference into its input.
func TestParseAnswerProtocol(t *testing.T) {
	b := bytes.Clone(worked)
	for p := range 256 {
		b[11] = byte(p)
		if _, err := scp03.ParseAnswer(b, scp03.S8); (err == nil) != (p == 3) {
			t.Errorf("protocol %02X: %v", p, err)
		}
	}
	b[11] = 0x03
	a, err := scp03.ParseAnswer(b, scp03.S8)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !bytes.Equal(encodeAnswer(a), worked) {
		t.Error("the answer changed with the caller's slice")
	}
}

var worked = unhex("0000000000000000000030" + "0370" + "3EB51047495B249F" + "66C484C1D2EF1948" + "000002")

// TestLevels states every pair of level and i: [AmdD], Tables 5-1 and 7-6.
func TestLevels(t *testing.T) {
	for l := range 256 {
		for i := range 256 {
			want := false
			switch l {
			case 0x00, 0x01, 0x03:
				want = true
			case 0x11, 0x13:
				want = i&0x20 != 0
			case 0x33:
				want = i&0x60 == 0x60
			}
			if got := scp03.ValidLevel(scp03.Level(l), byte(i)); got != want {
				t.Errorf("level %02X with i = %02X: %t, want %t", l, i, got, want)
			}
		}
	}
}

// TestCardCryptogramBits flips every bit of the card cryptogram: the answer is
// one opaque error, after one MAC and no other use of the token, so nothing that
// could authenticate the host was ever computed.
func TestCardCryptogramBits(t *testing.T) {
	for _, m := range []scp03.Mode{scp03.S8, scp03.S16} {
		tok, static, host, a := goodAnswer(t, m)
		keys := scp03.SessionKeys(static, host, a.CardChallenge)
		if err := scp03.VerifyCard(ctx, tok, keys, host, a); err != nil {
			t.Fatalf("the unchanged answer: %v", err)
		}
		for bit := range 8 * int(m) {
			bad := a
			bad.CardCryptogram = bytes.Clone(a.CardCryptogram)
			bad.CardCryptogram[bit/8] ^= 1 << (bit % 8)
			before := tok.Calls
			err := scp03.VerifyCard(ctx, tok, keys, host, bad)
			if fault.CodeOf(err) != fault.ProofFailed || err.Error() != fault.Proof().Error() {
				t.Errorf("bit %d: %v", bit, err)
			}
			if n := tok.Calls - before; n != 1 {
				t.Errorf("bit %d: %d uses of the token, want 1", bit, n)
			}
		}
		for n := range int(m) {
			bad := a
			bad.CardCryptogram = a.CardCryptogram[:n]
			if err := scp03.VerifyCard(ctx, tok, keys, host, bad); fault.CodeOf(err) != fault.ProofFailed {
				t.Errorf("a cryptogram of %d bytes: %v", n, err)
			}
		}
	}
}

// TestCardChallengeBits does the same for a pseudo-random card challenge, the
// sequence counter and the AID that it was made from.
func TestCardChallengeBits(t *testing.T) {
	aid := unhex("A000000151000000")
	for _, m := range []scp03.Mode{scp03.S8, scp03.S16} {
		tok, static, _, a := goodAnswer(t, m)
		check := func(a scp03.Answer, aid []byte) fault.Code {
			return fault.CodeOf(scp03.VerifyChallenge(ctx, tok, static.ENC, a, aid))
		}
		if c := check(a, aid); c != fault.OK {
			t.Fatalf("the unchanged answer: %s", c)
		}
		for bit := range 8 * int(m) {
			bad := a
			bad.CardChallenge = bytes.Clone(a.CardChallenge)
			bad.CardChallenge[bit/8] ^= 1 << (bit % 8)
			if c := check(bad, aid); c != fault.ProofFailed {
				t.Errorf("challenge bit %d: %s", bit, c)
			}
		}
		for bit := range 24 {
			bad := a
			bad.Counter ^= 1 << bit
			if c := check(bad, aid); c != fault.ProofFailed {
				t.Errorf("counter bit %d: %s", bit, c)
			}
		}
		if c := check(a, aid[:7]); c != fault.ProofFailed {
			t.Errorf("another AID: %s", c)
		}
	}
}

// goodAnswer makes the answer of a card with pseudo-random challenges.
func goodAnswer(t *testing.T, m scp03.Mode) (*derivetest.Token, scp03.Static, []byte, scp03.Answer) {
	t.Helper()
	tok := new(derivetest.Token)
	static := scp03.Static{
		ENC: aes(t, tok, "K-ENC", derive.Static, unhex("11000102030405060708090A0B0C0D0E")),
		MAC: aes(t, tok, "K-MAC", derive.Static, unhex("22000102030405060708090A0B0C0D0E")),
	}
	a := scp03.Answer{KDD: make([]byte, 10), I: 0x70, Counter: 0x000102, CounterIncluded: true}
	if m == scp03.S16 {
		a.I |= scp03.ISixteen
	}
	label := func(constant byte) []byte {
		b := make([]byte, 15)
		b[11], b[14] = constant, byte(8*m)
		return b
	}
	enc := tok.Add("enc as MAC key", static.ENC.Algorithm(), derive.SessionMAC, tok.Value(static.ENC))
	challenge, _ := tok.MAC(ctx, enc, append(append(label(0x02), 1), unhex("000102"+"A000000151000000")...))
	a.CardChallenge = challenge[:m]
	host := bytes.Repeat([]byte{0x5A}, int(m))
	keys := scp03.SessionKeys(static, host, a.CardChallenge)
	cryptogram, _ := tok.MAC(ctx, keys.MAC, append(append(append(label(0x00), 1), host...), a.CardChallenge...))
	a.CardCryptogram = cryptogram[:m]
	return tok, static, host, a
}

// TestInitializeUpdate states the command's bytes.
func TestInitializeUpdate(t *testing.T) {
	if got := apdu.Hex(scp03.InitializeUpdate(0x30, unhex("0102030405060708")).Bytes()); got != "8050300008010203040506070800" {
		t.Errorf("got %s", got)
	}
}
