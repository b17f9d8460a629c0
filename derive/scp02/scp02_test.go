package scp02_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// worked is the example of the package comment: kaoh/globalplatform, scp02Test.c.
var worked = unhex("000074746E6E6E6262620102069FAA2A0591E73367DD78794D04315E")

func encodeAnswer(a scp02.Answer) []byte {
	return slices.Concat(a.KDD, []byte{a.KVN, 0x02, byte(a.Counter >> 8), byte(a.Counter)}, a.CardChallenge, a.CardCryptogram)
}

func wantCode(t *testing.T, what string, err error, want fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != want {
		t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

func TestParseAnswer(t *testing.T) {
	a, err := scp02.ParseAnswer(worked)
	if err != nil || a.KVN != 1 || a.Counter != 0x069F || !bytes.Equal(encodeAnswer(a), worked) {
		t.Fatalf("%+v, %v", a, err)
	}
	for n := range worked { // truncated anywhere
		_, err := scp02.ParseAnswer(worked[:n])
		wantCode(t, "truncated", err, fault.InvalidInput)
	}
	_, err = scp02.ParseAnswer(append(bytes.Clone(worked), 0))
	wantCode(t, "one byte more", err, fault.InvalidInput)
	for p := range 256 {
		b := bytes.Clone(worked)
		b[11] = byte(p)
		if _, err := scp02.ParseAnswer(b); (err == nil) != (p == 2) {
			t.Errorf("protocol %02X: %v", p, err)
		}
	}
}

func TestAnswerIsACopy(t *testing.T) {
	b := bytes.Clone(worked)
	a, _ := scp02.ParseAnswer(b)
	clear(b)
	if !bytes.Equal(encodeAnswer(a), worked) {
		t.Error("the answer changes with the caller's bytes")
	}
}

// FuzzParseAnswer: what is accepted encodes to the same bytes; what is refused is
// invalid_input.
func FuzzParseAnswer(f *testing.F) {
	f.Add(worked)
	f.Add(worked[:27])
	f.Add(append(bytes.Clone(worked), 0))
	f.Add(bytes.Repeat([]byte{2}, 28))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := scp02.ParseAnswer(b)
		if err != nil {
			if fault.CodeOf(err) != fault.InvalidInput {
				t.Fatalf("code %s", fault.CodeOf(err))
			}
			return
		}
		if !bytes.Equal(encodeAnswer(a), b) {
			t.Fatalf("encoding gives %X", encodeAnswer(a))
		}
	})
}

// TestLevels states every level of every "i".
func TestLevels(t *testing.T) {
	want := map[byte][]scp02.Level{
		0x05: {0x00, 0x01, 0x03}, 0x15: {0x00, 0x01, 0x03}, 0x45: {0x00, 0x01, 0x03}, 0x55: {0x00, 0x01, 0x03},
		0x35: {0x00, 0x01, 0x03, 0x11, 0x13}, 0x75: {0x00, 0x01, 0x03, 0x11, 0x13}, 0x1A: {0x01},
	}
	for i := range 256 {
		var got []scp02.Level
		for l := range 256 {
			if scp02.ValidLevel(scp02.Level(l), byte(i)) {
				got = append(got, scp02.Level(l))
			}
		}
		if !slices.Equal(got, want[byte(i)]) || scp02.ValidI(byte(i)) != (len(got) > 0) {
			t.Errorf("i = %02X: levels %X, want %X", i, got, want[byte(i)])
		}
	}
}

var gpKeys = staticKeys{
	ENC: unhex("404142434445464748494A4B4C4D4E4F"), MAC: unhex("404142434445464748494A4B4C4D4E4F"), DEK: unhex("404142434445464748494A4B4C4D4E4F"),
}

// TestVerifyCard flips every bit of the card cryptogram, of the challenges and of the
// sequence counter: each is the same failed proof.
func TestVerifyCard(t *testing.T) {
	host := unhex("D5AD539A60CA5E72")
	check := func(host, answer []byte) error {
		tok := new(derivetest.Token)
		a, err := scp02.ParseAnswer(answer)
		if err != nil {
			t.Fatal(err)
		}
		k, err := scp02.SessionKeys(gpKeys.add(tok), a.Counter)
		if err != nil {
			t.Fatal(err)
		}
		return scp02.VerifyCard(ctx, tok, k, host, a)
	}
	if err := check(host, worked); err != nil {
		t.Fatal(err)
	}
	for bit := 12 * 8; bit < 28*8; bit++ {
		b := bytes.Clone(worked)
		b[bit/8] ^= 1 << (bit % 8)
		if err := check(host, b); fault.CodeOf(err) != fault.ProofFailed {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	for bit := range 64 {
		b := bytes.Clone(host)
		b[bit/8] ^= 1 << (bit % 8)
		wantCode(t, "another host challenge", check(b, worked), fault.ProofFailed)
	}
}

func TestVerifyChallenge(t *testing.T) {
	tok := new(derivetest.Token)
	a := scp02.Answer{Counter: 0x000D, CardChallenge: unhex("E9C62BA1C4C8")}
	k, err := scp02.SessionKeys(gpKeys.add(tok), a.Counter)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 48 {
		b := a
		b.CardChallenge = bytes.Clone(a.CardChallenge)
		b.CardChallenge[bit/8] ^= 1 << (bit % 8)
		wantCode(t, "another challenge", scp02.VerifyChallenge(ctx, tok, k, b, unhex("A000000151000000")), fault.ProofFailed)
	}
	wantCode(t, "another AID", scp02.VerifyChallenge(ctx, tok, k, a, unhex("A000000151000001")), fault.ProofFailed)
	for _, n := range []int{0, 4, 17} {
		wantCode(t, "no AID", scp02.VerifyChallenge(ctx, tok, k, a, make([]byte, n)), fault.InvalidInput)
	}
}

// TestStaticKeys: card keys that could not have derived these session keys are refused.
func TestStaticKeys(t *testing.T) {
	tok := new(derivetest.Token)
	good := gpKeys.add(tok)
	for name, bad := range map[string]*derive.Key{
		"AES":           tok.Add("aes", key.AES128, derive.StaticCBC, gpKeys.ENC),
		"3-key 3DES":    tok.Add("3", key.TDEA3, derive.StaticCBC, make([]byte, 24)),
		"a master":      tok.Add("m", key.TDEA2, derive.Static, gpKeys.ENC),
		"a session key": tok.Add("s", key.TDEA2, derive.SessionENC, gpKeys.ENC),
	} {
		for _, s := range []scp02.Static{{ENC: bad, MAC: good.MAC}, {ENC: good.ENC, MAC: bad}, {ENC: good.ENC, MAC: good.MAC, DEK: bad}} {
			_, err := scp02.SessionKeys(s, 1)
			wantCode(t, name, err, fault.InvalidInput)
		}
	}
}

// TestWeakKeys: parity bits do not matter, and keys whose halves are equal compute
// plain DES; what refuses them is the import of a key, not this package.
func TestWeakKeys(t *testing.T) {
	a, err := scp02.ParseAnswer(worked)
	if err != nil {
		t.Fatal(err)
	}
	cryptogram := func(v []byte) []byte {
		tok := new(derivetest.Token)
		k, err := scp02.SessionKeys(staticKeys{ENC: v, MAC: v}.add(tok), a.Counter)
		if err != nil {
			t.Fatal(err)
		}
		m := scp02.Messaging{Token: tok, Keys: k, Level: scp02.CMAC, I: 0x15}
		cmd, _, err := m.ExternalAuthenticate(ctx, make([]byte, 8), a)
		if err != nil {
			t.Fatal(err)
		}
		return cmd.Data
	}
	odd := bytes.Clone(gpKeys.ENC)
	for i := range odd {
		odd[i] ^= 1
	}
	if !bytes.Equal(cryptogram(gpKeys.ENC), cryptogram(odd)) {
		t.Error("parity bits matter")
	}
	for _, weak := range [][]byte{bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{0xFE}, 16), bytes.Repeat(gpKeys.ENC[:8], 2)} {
		if len(cryptogram(weak)) != 16 {
			t.Error("a weak key gives no answer")
		}
	}
}

// TestLastCounter: the last sequence counter works like any other, and its keys are
// nobody else's.
func TestLastCounter(t *testing.T) {
	tok := new(derivetest.Token)
	s := gpKeys.add(tok)
	seen := map[string]uint16{}
	for _, n := range []uint16{0, 1, 0x00FF, 0x0100, 0xFFFE, scp02.CounterMax} {
		k, err := scp02.SessionKeys(s, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range k.Keys() {
			v := string(tok.Value(key))
			if other, ok := seen[v]; ok {
				t.Errorf("counters %04X and %04X share a key", other, n)
			}
			seen[v] = n
		}
	}
}

// failing is a token whose calls fail, all but the first n.
type failing struct {
	*derivetest.Token
	left int
}

var errToken = errors.New("the token failed")

func (f *failing) Encrypt(c context.Context, k *derive.Key, data []byte) ([]byte, error) {
	if f.left--; f.left < 0 {
		return nil, errToken
	}
	return f.Token.Encrypt(c, k, data)
}

func (f *failing) RetailMAC(c context.Context, k derive.RetailKey, message []byte) ([]byte, error) {
	if f.left--; f.left < 0 {
		return nil, errToken
	}
	return f.Token.RetailMAC(c, k, message)
}

// TestTokenFails fails each call of the token in turn: the error passes, and the state
// stays as it was.
func TestTokenFails(t *testing.T) {
	for left := range 2 {
		plain, m := session(scp02.CMAC|scp02.CDecryption|scp02.RMAC, 0x35)
		m.Token = &failing{plain, left}
		before := scp02.State{MAC: [8]byte{1}, Chained: true, Blocks: 7}
		_, after, err := m.Wrap(ctx, before, apdu.Command{CLA: 0x80, INS: 0xE2, Data: []byte{1}})
		if !errors.Is(err, errToken) || after != before {
			t.Errorf("after %d calls: %v, %+v", left, err, after)
		}
		m.Token = &failing{plain, left}
		if _, _, err := m.ExternalAuthenticate(ctx, make([]byte, 8), scp02.Answer{CardChallenge: make([]byte, 6)}); !errors.Is(err, errToken) {
			t.Errorf("EXTERNAL AUTHENTICATE after %d calls: %v", left, err)
		}
	}
	plain, m := session(scp02.CMAC|scp02.RMAC, 0x35)
	m.Token = &failing{plain, 0}
	if _, _, err := m.Unwrap(ctx, scp02.Responses{}, apdu.Command{}, apdu.Response{Data: make([]byte, 8), SW: apdu.Success}); !errors.Is(err, errToken) {
		t.Errorf("unwrapping: %v", err)
	}
	a := scp02.Answer{CardChallenge: make([]byte, 6), CardCryptogram: make([]byte, 8)}
	if err := scp02.VerifyCard(ctx, m.Token, m.Keys, make([]byte, 8), a); !errors.Is(err, errToken) {
		t.Errorf("verifying the card: %v", err)
	}
	if err := scp02.VerifyChallenge(ctx, m.Token, m.Keys, a, make([]byte, 8)); !errors.Is(err, errToken) {
		t.Errorf("verifying the challenge: %v", err)
	}
}
