package hsm_test

import (
	"bytes"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/softhsm/cardsim"
	"cardkms/softhsm/testtoken"
)

// tdeaCardKey is the card key of SCP02 that follows from a 3DES master.
func tdeaCardKey(t testing.TB, master *derive.Key) *derive.Key {
	t.Helper()
	k, err := diversify.Card(diversify.EMV, master, []byte("0123456789"),
		diversify.Target{Purpose: diversify.MAC, Class: derive.StaticCBC, Algorithm: key.TDEA2})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// legacyKeys are the session keys of SCP02 that follow from one card key.
func legacyKeys(t testing.TB, card *derive.Key) scp02.Session {
	t.Helper()
	k, err := scp02.SessionKeys(scp02.Static{ENC: card, MAC: card, DEK: card}, 0x0102)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestLegacyOperations compares what SCP02 asks of a token with the software oracle,
// for card keys that follow from a master and for card keys that are roots.
func TestLegacyOperations(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		for name, card := range map[string]*derive.Key{
			"of a master": tdeaCardKey(t, importRoot(t, tok, soft, "master", key.TDEA2, derive.Static)),
			"a root":      importRoot(t, tok, soft, "card", key.TDEA2, derive.StaticCBC),
		} {
			k := legacyKeys(t, card)
			for _, retail := range []derive.RetailKey{k.MAC, k.RMAC} {
				for blocks := 1; blocks <= 33; blocks++ {
					message := bytes.Repeat([]byte{0x11, 2, 3, 4, 5, 6, 7, byte(blocks)}, blocks)
					got, err := tok.RetailMAC(ctx, retail, message)
					want, _ := soft.RetailMAC(ctx, retail, message)
					compare(t, name+": RetailMAC", got, err, want)
				}
			}
			for _, n := range []int{8, 24, 248} {
				data := bytes.Repeat([]byte{0x42}, n)
				got, err := tok.Encrypt(ctx, k.ENC, data)
				want, _ := soft.Encrypt(ctx, k.ENC, data)
				compare(t, name+": Encrypt", got, err, want)
			}
			for _, k := range []*derive.Key{card, k.ENC, k.MAC.Whole()} {
				got, err := tok.KCV(ctx, k)
				if want, _ := soft.KCV(ctx, k); err != nil || got != want {
					t.Errorf("%s: the check value is %v (%v), want %v", name, got, err, want)
				}
			}
			tok.Release(append(k.Keys(), card)...)
		}
		if n := tok.LiveObjects(); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// TestLegacyValuesStay: no key of an SCP02 session can be read.
func TestLegacyValuesStay(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		card := tdeaCardKey(t, importRoot(t, tok, new(derivetest.Token), "master", key.TDEA2, derive.Static))
		for _, k := range append(legacyKeys(t, card).Keys(), card) {
			if err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
				c, _ := tok.Raw()
				got, err := c.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
				if err == nil {
					t.Errorf("class %d: the value is %X", k.Class(), got[0].Value)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLegacyMisuse: what the classes of 3DES keys are not for is refused before the
// token is asked.
func TestLegacyMisuse(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		master := importRoot(t, tok, soft, "master", key.TDEA2, derive.Static)
		k := legacyKeys(t, tdeaCardKey(t, master))
		block := make([]byte, 16)
		retail := func(k derive.RetailKey, m []byte) error { _, err := tok.RetailMAC(ctx, k, m); return err }
		chained, err := master.Retail(derive.Step{Function: derive.CBC, Messages: [][]byte{block}})
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"the halves swapped":    retail(derive.RetailFromRoots(k.MAC.Left(), k.MAC.Whole()), block),
			"S-ENC as left half":    retail(derive.RetailFromRoots(k.MAC.Whole(), k.ENC), block),
			"no key":                retail(derive.RetailKey{}, block),
			"no left half":          retail(derive.RetailFromRoots(k.MAC.Whole(), nil), block),
			"S-ENC as MAC key":      retail(derive.RetailFromRoots(k.ENC, k.ENC), block),
			"no block":              retail(k.MAC, nil),
			"half a block":          retail(k.MAC, block[:4]),
			"a master deriving CBC": retail(chained, block),
			"encrypting half a block": func() error {
				_, err := tok.Encrypt(ctx, k.ENC, block[:12])
				return err
			}(),
			"encrypting with a MAC key":      func() error { _, err := tok.Encrypt(ctx, k.MAC.Whole(), block); return err }(),
			"encrypting with its left half":  func() error { _, err := tok.Encrypt(ctx, k.MAC.Left(), block); return err }(),
			"decrypting":                     func() error { _, err := tok.Decrypt(ctx, k.ENC, block, block); return err }(),
			"AES-CMAC with a retail MAC key": func() error { _, err := tok.MAC(ctx, k.MAC.Whole(), block); return err }(),
			"deriving from a session key":    retailFrom(t, tok, k.ENC),
			"deriving by CBC without message": func() error {
				_, err := tok.Encrypt(ctx, tdeaCardKey(t, master).Derive(derive.Step{Function: derive.CBC, Class: derive.SessionENC, Algorithm: key.TDEA2}), block)
				return err
			}(),
		} {
			if err == nil {
				t.Errorf("%s is not refused", name)
			}
		}
		_, err = tok.Wrap(ctx, k.DEK, derive.FromRoot(derive.Root{Algorithm: key.AES128, Class: derive.Transport}))
		wantCode(t, "an AES key under 3DES", err, fault.InvalidInput)
	})
}

func retailFrom(t *testing.T, tok *hsm.Token, base *derive.Key) error {
	t.Helper()
	k, err := base.Retail(derive.Step{Function: derive.ECB, Messages: [][]byte{make([]byte, 16)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tok.RetailMAC(ctx, k, make([]byte, 16))
	return err
}

// TestLegacyWrap: PUT KEY under 3DES runs inside the token or is refused with a reason.
func TestLegacyWrap(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		master := importRoot(t, tok, soft, "master", key.TDEA2, derive.Static)
		dek := legacyKeys(t, tdeaCardKey(t, master)).DEK
		s := tdeaCardKey(t, master).Step()
		s.Class = derive.Transport
		got, err := tok.Wrap(ctx, dek, master.Derive(s))
		if !tok.Native() { // SoftHSM2
			wantCode(t, "SoftHSM2 wrapping with 3DES", err, fault.TokenUnable)
			return
		}
		// The token gave the new key odd parity, which the card's cipher ignores.
		if err != nil || len(got) != 16 {
			t.Errorf("%X, %v", got, err)
		}
	})
}

// TestWeakImport: a 3DES key that is single DES, or less, is refused.
func TestWeakImport(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	half, other := []byte("\x01\x23\x45\x67\x89\xAB\xCD\xEF"), []byte("\xFE\xDC\xBA\x98\x76\x54\x32\x10")
	parity := bytes.Clone(half)
	parity[3] ^= 1
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		alg  key.Algorithm
		v    []byte
		weak bool
	}{
		"two keys":                 {key.TDEA2, join(half, other), false},
		"equal halves":             {key.TDEA2, join(half, half), true},
		"halves equal but parity":  {key.TDEA2, join(half, parity), true},
		"three keys":               {key.TDEA3, join(half, other, bytes.Repeat([]byte{0x4A}, 8)), false},
		"first two of three equal": {key.TDEA3, join(half, half, other), true},
		"last two of three equal":  {key.TDEA3, join(other, half, half), true},
		"a weak key of DES":        {key.TDEA2, join(half, bytes.Repeat([]byte{1}, 8)), true},
		"its complement":           {key.TDEA2, join(bytes.Repeat([]byte{0xFF}, 8), half), true},
		"an AES key like that":     {key.AES128, join(half, half), false},
	} {
		_, err := tok.Import(ctx, unique(t, name), c.alg, derive.Static, secret.New(c.v))
		if want := fault.InvalidInput; c.weak && fault.CodeOf(err) != want || !c.weak && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLegacyCard opens sessions of SCP02 with a simulated card, every "i" parameter at
// every level, with the session keys inside the token: the card computes with DES itself.
func TestLegacyCard(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		for _, i := range []byte{0x05, 0x15, 0x1A, 0x35, 0x45, 0x55, 0x75} {
			for _, l := range []scp02.Level{0x01, 0x03, 0x11, 0x13} {
				if scp02.ValidLevel(l, i) {
					legacyCard(t, tok, i, l)
				}
			}
		}
	})
}

func legacyCard(t *testing.T, tok *hsm.Token, i byte, l scp02.Level) {
	t.Helper()
	isd, aes := []byte("\xA0\x00\x00\x01\x51\x00\x00\x00"), value("aes", key.AES128)
	enc, mac := value("card enc", key.TDEA2), value("card mac", key.TDEA2)
	card, err := cardsim.New(cardsim.Config{
		ISD: isd, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70,
		Legacy: cardsim.LegacyKeys{KVN: 0x20, I: i, ENC: enc, MAC: mac, DEK: enc},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	card.PowerOn()
	m := scp02.Messaging{Token: tok, Level: l, I: i}
	if m.Keys, err = scp02.SessionKeys(scp02.Static{ENC: volatile(t, tok, "enc", enc), MAC: volatile(t, tok, "mac", mac)}, 0); err != nil {
		t.Fatal(err)
	}
	defer tok.Release(m.Keys.Keys()...)
	send := func(c apdu.Command) apdu.Response {
		b, err := card.Transmit(c.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		r, err := apdu.ParseResponse(b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	state := legacyStart(t, m, isd, send)
	responses := state.Responses()
	for n, c := range []apdu.Command{
		{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Ne: 256},
		{CLA: 0x80, INS: 0x01, Data: make([]byte, m.DataMax())},
		{CLA: 0x80, INS: 0xCA, P1: 0x9F, P2: 0x7F, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Ne: 256},
	} {
		w, next, err := m.Wrap(ctx, state, c)
		if err != nil {
			t.Fatal(err)
		}
		u, after, err := m.Unwrap(ctx, responses, c, send(w))
		if want := []apdu.SW{0x9000, 0x6D00, 0x9000}[n]; err != nil || u.SW != want || want == 0x9000 && len(u.Data) != 45 {
			t.Errorf("i = %02X, level %02X, command %d: %X, %v", i, l, n+1, u.Bytes(), err)
		}
		state, responses = next, after
	}
}

// legacyStart initiates the session as the card wants it.
func legacyStart(t *testing.T, m scp02.Messaging, isd []byte, send func(apdu.Command) apdu.Response) scp02.State {
	t.Helper()
	if m.I&scp02.IExplicit == 0 {
		s, err := m.Implicit(ctx, isd)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	host := []byte("hostchal")
	a, err := scp02.ParseAnswer(send(scp02.InitializeUpdate(0x20, host)).Data)
	if err == nil {
		err = scp02.VerifyCard(ctx, m.Token, m.Keys, host, a)
	}
	if err == nil && m.I&scp02.IPseudo != 0 {
		err = scp02.VerifyChallenge(ctx, m.Token, m.Keys, a, isd)
	}
	if err != nil {
		t.Fatal(err)
	}
	ext, s, err := m.ExternalAuthenticate(ctx, host, a)
	if err != nil {
		t.Fatal(err)
	}
	if r := send(ext); r.SW != apdu.Success {
		t.Fatalf("EXTERNAL AUTHENTICATE: %s", r.SW)
	}
	return s
}

// volatile imports a card key that ends with the test.
func volatile(t *testing.T, tok *hsm.Token, name string, v []byte) *derive.Key {
	t.Helper()
	k, forget, err := tok.ImportVolatile(ctx, unique(t, name), key.TDEA2, derive.StaticCBC, v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(forget)
	return k
}
