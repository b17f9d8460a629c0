package emv_test

import (
	"bytes"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/emv"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// TestCards: PANs at both ends and what is none; no error repeats a digit of it.
func TestCards(t *testing.T) {
	var tok derivetest.Token
	imk := tok.Add("imk", key.TDEA2, derive.Static, make([]byte, 16))
	for name, c := range map[string]struct {
		card emv.Card
		want fault.Code
	}{
		"13 digits, odd":          {emv.Card{PAN: "4929717171717"}, ""},
		"16 digits":               {emv.Card{PAN: "4929717171717171", PSN: "01"}, ""},
		"19 digits":               {emv.Card{PAN: "4929717171717171717", PSN: "99"}, ""},
		"no PSN":                  {emv.Card{PAN: "4929717171717171"}, ""},
		"11 digits":               {emv.Card{PAN: "49297171717"}, fault.InvalidInput},
		"20 digits":               {emv.Card{PAN: "49297171717171717171"}, fault.InvalidInput},
		"none":                    {emv.Card{}, fault.InvalidInput},
		"a letter":                {emv.Card{PAN: "492971717171717A"}, fault.InvalidInput},
		"a digit of another kind": {emv.Card{PAN: "492971717171717٣"}, fault.InvalidInput},
		"a PSN of one digit":      {emv.Card{PAN: "4929717171717171", PSN: "1"}, fault.InvalidInput},
		"a PSN of three":          {emv.Card{PAN: "4929717171717171", PSN: "001"}, fault.InvalidInput},
		"a PSN of letters":        {emv.Card{PAN: "4929717171717171", PSN: "0x"}, fault.InvalidInput},
	} {
		for _, o := range []emv.Option{emv.OptionA, emv.OptionB} {
			_, err := emv.NewMaster(o, imk, c.card)
			if fault.CodeOf(err) != c.want && (err != nil || c.want != "") {
				t.Errorf("%s, option %s: %v, want %q", name, o, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "4929") {
				t.Errorf("%s: the error shows the PAN: %v", name, err)
			}
		}
	}
	same := func(a, b emv.Card) bool {
		x, errX := emv.NewMaster(emv.OptionB, imk, a)
		y, errY := emv.NewMaster(emv.OptionB, imk, b)
		return errX == nil && errY == nil && bytes.Equal(tok.Value(x.Key()), tok.Value(y.Key()))
	}
	if !same(emv.Card{PAN: "4929717171717171"}, emv.Card{PAN: "4929717171717171", PSN: "00"}) {
		t.Error("no PSN is another card than PSN 00")
	}
	if same(emv.Card{PAN: "4929717171717171", PSN: "01"}, emv.Card{PAN: "4929717171717171", PSN: "02"}) {
		t.Error("the PSN does not count")
	}
}

// TestOptions: each option is of one cipher.
func TestOptions(t *testing.T) {
	var tok derivetest.Token
	card := emv.Card{PAN: "4929717171717171"}
	tdea := tok.Add("tdea", key.TDEA2, derive.Static, make([]byte, 16))
	aes := tok.Add("aes", key.AES128, derive.Static, make([]byte, 16))
	for _, c := range []struct {
		option emv.Option
		imk    *derive.Key
		fine   bool
	}{{emv.OptionA, tdea, true}, {emv.OptionB, tdea, true}, {emv.OptionC, aes, true}, {emv.OptionA, aes, false}, {emv.OptionC, tdea, false}, {"D", tdea, false}} {
		if _, err := emv.NewMaster(c.option, c.imk, card); (err == nil) != c.fine {
			t.Errorf("option %s of %s: %v", c.option, c.imk.Algorithm(), err)
		}
	}
}

// prover returns how cryptograms are verified under a profile, and a good one.
func prover(t *testing.T, tok *derivetest.Token, p emv.Profile, data []byte) (verify func(data, cryptogram []byte) error, good []byte) {
	t.Helper()
	a := key.TDEA2
	if p.Option == emv.OptionC {
		a = key.AES128
	}
	in := emv.Input{ATC: 7, UN: []byte{1, 2, 3, 4}}
	m, err := emv.NewMaster(p.Option, tok.Add("imk", a, derive.Static, []byte("sixteen bytes!!!")), emv.Card{PAN: "4929717171717171717"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := m.MAC(p.Cryptogram, in, false)
	if err != nil {
		t.Fatal(err)
	}
	if good, err = emv.Cryptogram(ctx, tok, k, p.Padding, data); err != nil {
		t.Fatal(err)
	}
	return func(data, c []byte) error { return emv.Verify(ctx, tok, k, p.Padding, data, c) }, good
}

// TestProofs: every changed bit of data or cryptogram is the one opaque failure.
func TestProofs(t *testing.T) {
	var tok derivetest.Token
	for _, name := range emv.ProfileNames() {
		p, err := emv.ProfileOf(name)
		if err != nil {
			t.Fatal(err)
		}
		data := []byte("the data of a transaction, of 33 b")
		verify, good := prover(t, &tok, p, data)
		if err := verify(data, good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for bit := range 8 * (len(data) + len(good)) {
			both := append(bytes.Clone(data), good...)
			both[bit/8] ^= 1 << (bit % 8)
			err := verify(both[:len(data)], both[len(data):])
			if err == nil || err.Error() != fault.Proof().Error() {
				t.Fatalf("%s, bit %d: %v", name, bit, err)
			}
		}
		for n := range good {
			if err := verify(data, good[:n]); fault.CodeOf(err) != fault.ProofFailed {
				t.Errorf("%s, %d bytes of a cryptogram: %v", name, n, err)
			}
		}
	}
}

// TestBadInput: what a formula cannot take is refused before the token is asked.
func TestBadInput(t *testing.T) {
	var tok derivetest.Token
	m, err := emv.NewMaster(emv.OptionA, tok.Add("imk", key.TDEA2, derive.Static, make([]byte, 16)), emv.Card{PAN: "4929717171717171"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := m.MAC(emv.CSK, emv.Input{}, false)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := m.ENC(emv.CSK, emv.Input{ARQC: make([]byte, 8)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := emv.ProfileOf("mchip-16")
	if err != nil {
		t.Fatal(err)
	}
	var none [8]byte
	errOf := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"no unpredictable number":         errOf(m.MAC(emv.SKD, emv.Input{}, false)),
		"a short unpredictable number":    errOf(m.MAC(emv.SKD, emv.Input{UN: none[:3]}, false)),
		"a script without an ARQC":        errOf(m.MAC(emv.CSK, emv.Input{}, true)),
		"a script under the master key":   errOf(m.MAC(emv.MasterItself, emv.Input{}, true)),
		"a script under SKD":              errOf(m.MAC(emv.SKD, emv.Input{UN: none[:4]}, true)),
		"an unknown derivation":           errOf(m.MAC("kdf", emv.Input{}, false)),
		"an unknown profile":              errOf(emv.ProfileOf("visa-14")),
		"a cryptogram over nothing":       errOf(emv.Cryptogram(ctx, &tok, k, emv.Padding2, nil)),
		"a cryptogram over too much":      errOf(emv.Cryptogram(ctx, &tok, k, emv.Padding2, make([]byte, emv.DataMax+1))),
		"ARPC 1 of a short ARQC":          errOf(emv.ARPC1(ctx, &tok, k.Retail, none[:7], none[:2])),
		"ARPC 1 of a long ARC":            errOf(emv.ARPC1(ctx, &tok, k.Retail, none[:], none[:3])),
		"ARPC 2 of a short CSU":           errOf(emv.ARPC2(ctx, &tok, k, none[:], none[:3], nil)),
		"ARPC 2 of 9 bytes":               errOf(emv.ARPC2(ctx, &tok, k, none[:], none[:4], make([]byte, 9))),
		"proprietary data under method 1": errOf(p.Answer(ctx, &tok, m, emv.Input{ARQC: none[:]}, none[:2], none[:1])),
		"nothing to encrypt":              errOf(emv.Encipher(ctx, &tok, enc, emv.CBC, nil)),
		"too much to encrypt":             errOf(emv.Encipher(ctx, &tok, enc, emv.ECB, make([]byte, 240))),
		"an unknown encipherment":         errOf(emv.Encipher(ctx, &tok, enc, "ctr", none[:])),
		"a command that leaves no room":   errOf(p.Secure(ctx, &tok, emv.Keys{MAC: k, ENC: enc}, emv.Input{ARQC: none[:]}, emv.Command{Data: make([]byte, 248)})),
	} {
		if c := fault.CodeOf(err); c != fault.InvalidInput && c != fault.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestScriptCommandsDiffer: no two commands of a script share a session key, also
// where the ARQC is the greatest number.
func TestScriptCommandsDiffer(t *testing.T) {
	in := emv.Input{ARQC: bytes.Repeat([]byte{0xFF}, 8)}
	seen := map[string]bool{}
	for n := range 20 {
		seen[string(in.Next(n).ARQC)] = true
	}
	if len(seen) != 20 || !bytes.Equal(in.Next(1).ARQC, make([]byte, 8)) {
		t.Errorf("%d keys for 20 commands", len(seen))
	}
}
