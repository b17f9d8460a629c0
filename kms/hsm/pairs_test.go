package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/testtoken"
)

func pair(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// shared is the secret as the card computes it: with its own private keys.
func shared(t *testing.T, card [2]*ecdh.PrivateKey, ours ...*ecdh.PublicKey) (z []byte) {
	t.Helper()
	for i, k := range card {
		s, err := k.ECDH(ours[min(i, len(ours)-1)])
		if err != nil {
			t.Fatal(err)
		}
		z = append(z, s...)
	}
	return z
}

func pieces(z *derive.Key) (out []*derive.Key) {
	for i, c := range []derive.Class{derive.SessionMAC, derive.SessionENC, derive.SessionMAC, derive.SessionMAC, derive.SessionMAC} {
		out = append(out, z.Derive(derive.Step{Function: derive.X963, After: []byte{0x3C, 0x88, 0x10}, Offset: byte(16 * i), Class: c, Algorithm: key.AES128}))
	}
	return out
}

// computesAs compares what each key that follows from a secret computes with what the card's
// computes.
func computesAs(t *testing.T, tok *hsm.Token, z *derive.Key, want []byte) {
	t.Helper()
	values := derivetest.X963(want, []byte{0x3C, 0x88, 0x10}, 80)
	soft := new(derivetest.Token)
	message := bytes.Repeat([]byte{0x5A}, 48)
	all := pieces(z)
	for i, k := range all {
		same := soft.Add("same", key.AES128, k.Class(), values[16*i:16*i+16])
		if k.Class() == derive.SessionENC {
			got, err := tok.Encrypt(ctx, k, message)
			want, _ := soft.Encrypt(ctx, same, message)
			compare(t, "Encrypt", got, err, want)
			continue
		}
		got, err := tok.MAC(ctx, k, message)
		want, _ := soft.MAC(ctx, same, message)
		compare(t, "MAC", got, err, want)
	}
	tok.Release(append(all, z)...)
}

// TestAgreement: an ephemeral pair alone, and one beside a pair that lives in the token,
// give the keys that the card computes in software; nothing stays behind.
func TestAgreement(t *testing.T) {
	tok := testtoken.NSS(t)
	root, err := tok.Generate(ctx, "agreement", key.ECP256, derive.Agreeing)
	if err != nil {
		t.Fatal(err)
	}
	static := derive.FromRoot(root)
	public, err := tok.Public(ctx, root)
	if err != nil || derive.PairKCV(public) != root.KCV {
		t.Fatalf("%v, another check value than %v", err, root.KCV)
	}
	before := tok.LiveObjects()
	ephemeral, point, err := tok.Ephemeral(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	card := [2]*ecdh.PrivateKey{pair(t), pair(t)}
	peers := [2]*ecdh.PublicKey{card[0].PublicKey(), card[1].PublicKey()}
	for _, ours := range []struct {
		keys   [2]*derive.Key
		public []*ecdh.PublicKey
	}{
		{[2]*derive.Key{ephemeral, ephemeral}, []*ecdh.PublicKey{point}},
		{[2]*derive.Key{ephemeral, static}, []*ecdh.PublicKey{point, public}},
	} {
		z, err := tok.Agree(ctx, ours.keys, peers)
		if err != nil {
			t.Fatal(err)
		}
		computesAs(t, tok, z, shared(t, card, ours.public...))
	}
	tok.Release(ephemeral)
	if n := tok.LiveObjects(); n != before {
		t.Errorf("%d objects more than before", n-before)
	}
	_, err = tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, peers)
	wantCode(t, "a released pair", err, fault.ChannelClosed)
	s, err := tok.Survey(ctx, []string{"agreement"})
	if about := func(d string) bool { return strings.HasPrefix(d, `"agreement"`) }; err != nil || slices.ContainsFunc(s.Dangers, about) || slices.Contains(s.Foreign, "agreement") {
		t.Errorf("the survey says %v, %v", s, err)
	}
	if err := tok.Destroy(ctx, "agreement"); err != nil {
		t.Fatal(err)
	}
	if held, err := tok.Taken(ctx, "agreement"); held || err != nil {
		t.Errorf("a half of the pair is still there: %v", err)
	}
}

// TestAgreementMisused: a secret derives nothing but pieces, and nothing else derives them.
func TestAgreementMisused(t *testing.T) {
	tok := testtoken.NSS(t)
	ephemeral, _, err := tok.Ephemeral(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Release(ephemeral)
	z, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Release(z)
	aes, forget, err := tok.ImportVolatile(ctx, "misused", key.AES128, derive.Static, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	defer forget()
	as := func(k *derive.Key, c derive.Class) *derive.Key {
		r := k.Root()
		r.Class, r.Algorithm = c, key.AES128
		return derive.FromRoot(r)
	}
	piece := pieces(z)[0].Step()
	late, wide := piece, piece
	late.Offset, wide.Algorithm = 24, key.AES256
	wide.Offset = 16
	ecb := derive.Step{Function: derive.ECB, Messages: [][]byte{make([]byte, 32)}, Class: derive.SessionMAC, Algorithm: key.AES128}
	for name, k := range map[string]*derive.Key{
		"a piece of an AES key": aes.Derive(piece), "another function": z.Derive(ecb),
		"a piece across two values": z.Derive(late), "a piece that is too long": z.Derive(wide), "a pair": ephemeral.Derive(piece),
		"the secret itself": z, "the pair itself": ephemeral,
		"the secret under another class": as(z, derive.SessionMAC), "the pair under another class": as(ephemeral, derive.SessionMAC),
	} {
		if _, err := tok.MAC(ctx, k, nil); err == nil {
			t.Errorf("%s computes a MAC", name)
		}
	}
	if _, err := tok.KCV(ctx, z); fault.CodeOf(err) != fault.TokenUnable {
		t.Errorf("a secret has a check value: %v", err)
	}
	if _, err := tok.Agree(ctx, [2]*derive.Key{aes, ephemeral}, [2]*ecdh.PublicKey{}); err == nil {
		t.Error("an AES key agrees")
	}
	if _, err := tok.Public(ctx, aes.Root()); err == nil {
		t.Error("an AES key has a public half")
	}
}

// TestAgreementValuesStay: no object of an agreement gives out its value, and none is left of
// those on the way.
func TestAgreementValuesStay(t *testing.T) {
	tok := testtoken.NSS(t)
	raw, _ := tok.Raw()
	settled(t, tok, -1)
	before := tok.LiveObjects() // of other tests
	ephemeral, _, err := tok.Ephemeral(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	z, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	all := append(pieces(z)[:4], z, ephemeral)
	for i, k := range all {
		err := tok.WithObject(k, func(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
			_, err := raw.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			return err
		})
		if !errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE)) {
			t.Errorf("object %d: CKA_VALUE: %v", i, err)
		}
	}
	if n, err := tok.SessionObjects(); err != nil || n != before+5 { // the pair is no secret key
		t.Errorf("%d secret keys more, %v", n-before, err)
	}
	tok.Release(all...)
	settled(t, tok, before)
}

// TestAgreementUnable: a token that could derive nothing from an agreement makes no pairs.
func TestAgreementUnable(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	_, _, err := tok.Ephemeral(ctx, "")
	wantCode(t, "an ephemeral pair", err, fault.TokenUnable)
	_, err = tok.Generate(ctx, "unable", key.ECP256, derive.Agreeing)
	wantCode(t, "a pair", err, fault.TokenUnable)
	if held, err := tok.Taken(ctx, "unable"); held || err != nil {
		t.Errorf("an object stayed: %v", err)
	}
}

// TestAgreementLost: what a library's life ended with is gone, and says so; a pair that lives
// in the token is found again.
func TestAgreementLost(t *testing.T) {
	tok := testtoken.NSS(t)
	root, err := tok.Generate(ctx, "agreement-lost", key.ECP256, derive.Agreeing)
	if err != nil {
		t.Fatal(err)
	}
	ephemeral, _, err := tok.Ephemeral(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	peers := [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()}
	z, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, derive.FromRoot(root)}, peers)
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Absent(ctx); err != nil { // initialises the library again
		t.Fatal(err)
	}
	_, err = tok.MAC(ctx, pieces(z)[0], nil)
	wantCode(t, "a secret of an earlier life", err, fault.ChannelClosed)
	if _, err := tok.Public(ctx, root); err != nil {
		t.Errorf("the pair of the token: %v", err)
	}
	if n := tok.LiveObjects(); n != 0 {
		t.Errorf("%d objects", n)
	}
	wrong := root
	wrong.KCV.Value = "000000"
	if err := tok.Check(ctx, wrong); fault.CodeOf(err) != fault.KeyState {
		t.Errorf("a pair with another check value: %v", err)
	}
	if err := tok.Destroy(ctx, "agreement-lost"); err != nil {
		t.Fatal(err)
	}
}

// TestAgreementGivenUp: what nobody waits for any more is not kept.
func TestAgreementGivenUp(t *testing.T) {
	tok := testtoken.NSS(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	before := tok.LiveObjects()
	if _, _, err := tok.Ephemeral(gone, ""); err == nil {
		t.Error("a pair for nobody")
	}
	if n := tok.LiveObjects(); n != before {
		t.Errorf("%d objects more", n-before)
	}
}
