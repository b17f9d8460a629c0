package hsm_test

import (
	"crypto/ecdh"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/faulty"
	"cardkms/softhsm/testtoken"
)

// ownNSS is how to open a token of NSS that is this process's own.
func ownNSS(t *testing.T) hsm.Config {
	t.Helper()
	cfg, err := testtoken.NSSConfig(filepath.Join(t.TempDir(), "nss"))
	must(t, err)
	cfg.Logger = quiet
	return cfg
}

// TestReleaseIsWhole: what is released is garbage before anybody can forget it, and the
// garbage, for another life of the library.
func TestReleaseIsWhole(t *testing.T) {
	tok := testtoken.NSS(t)
	settled(t, tok, -1)
	k, _, err := tok.Ephemeral(ctx, "")
	must(t, err)
	if !tok.ReleaseIsWhole(k) {
		t.Error("it was taken out, and is no garbage yet")
	}
	settled(t, tok, -1)
}

// TestAgreementSessionsEnd: what ended with the session that owned it says that the channel is
// closed, whoever asks first.
func TestAgreementSessionsEnd(t *testing.T) {
	if !inChild(t) {
		return
	}
	tok := openToken(t, ownNSS(t))
	peers := [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()}
	for name, f := range map[string]func(ephemeral, z *derive.Key) error{
		"a secret that derived nothing": func(_, z *derive.Key) error { _, err := tok.MAC(ctx, pieces(z)[0], message); return err },
		"a secret that derived a key":   func(_, z *derive.Key) error { _, err := tok.MAC(ctx, pieces(z)[2], message); return err },
		"a pair": func(ephemeral, _ *derive.Key) error {
			_, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, peers)
			return err
		},
	} {
		ephemeral, _, err := tok.Ephemeral(ctx, "")
		must(t, err)
		z, err := tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, peers)
		must(t, err)
		_, err = tok.MAC(ctx, pieces(z)[2], message)
		must(t, err)
		tok.CloseOwners()
		wantCode(t, name, f(ephemeral, z), fault.ChannelClosed)
		tok.Release(append(pieces(z), z, ephemeral)...)
	}
}

// TestOwnersReplaced: when a session that owned what was agreed on is replaced, nothing of it
// is taken for alive.
func TestOwnersReplaced(t *testing.T) {
	if !inChild(t) {
		return
	}
	tok := openToken(t, ownNSS(t))
	lost, _, err := tok.Ephemeral(ctx, "")
	must(t, err)
	tok.CloseOwners()
	eventually(t, "its owner is replaced", func() error {
		k, _, err := tok.Ephemeral(ctx, "")
		tok.Release(k)
		if err == nil && tok.LiveObjects() != 0 {
			err = errors.New(lost.Root().Label + " is taken for alive")
		}
		return err
	})
}

// TestFleetingForNobody: what nobody waits for any more when it was made is not kept.
func TestFleetingForNobody(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyFor(t, ownNSS(t))
	cfg.CallWait = 500 * time.Millisecond
	tok := openToken(t, cfg)
	module.Hang(numberOf("C_GetAttributeValue"), 1)
	if _, _, err := tok.Ephemeral(ctx, ""); err == nil {
		t.Error("a call that hangs was answered")
	}
	hangs(t, cfg.Module, true)
	module.Heal()
	hangs(t, cfg.Module, false)
	if n := tok.LiveObjects(); n != 0 {
		t.Errorf("%d objects", n)
	}
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		if n, err := tok.SessionObjectsOf(class); n != 0 || err != nil {
			t.Errorf("%d objects of class %d in the token, %v", n, class, err)
		}
	}
}

// TestFleetingReadBack: what cannot be read back of a secret that was agreed on is not taken
// for what it should be.
func TestFleetingReadBack(t *testing.T) {
	if !inChild(t) {
		return
	}
	cfg, module := faultyFor(t, ownNSS(t))
	tok := openToken(t, cfg)
	ephemeral, _, err := tok.Ephemeral(ctx, "")
	must(t, err)
	module.Fail(numberOf("C_GetAttributeValue"), faulty.Before, pkcs11.CKR_FUNCTION_FAILED, 1)
	_, err = tok.Agree(ctx, [2]*derive.Key{ephemeral, ephemeral}, [2]*ecdh.PublicKey{pair(t).PublicKey(), pair(t).PublicKey()})
	wantCode(t, "a secret that was not read back", err, fault.TokenUnavailable)
	if n := tok.LiveObjects(); n != 1 || module.Hits() != 1 {
		t.Errorf("%d objects, %d calls failed", n, module.Hits())
	}
}

// TestEphemeralPublicHalf: no public object of a pair that was made for one agreement stays.
func TestEphemeralPublicHalf(t *testing.T) {
	tok := testtoken.NSS(t)
	before, err := tok.SessionObjectsOf(pkcs11.CKO_PUBLIC_KEY)
	must(t, err)
	k, _, err := tok.Ephemeral(ctx, "")
	must(t, err)
	defer tok.Release(k)
	if n, err := tok.SessionObjectsOf(pkcs11.CKO_PUBLIC_KEY); n != before || err != nil {
		t.Errorf("%d public objects more, %v", n-before, err)
	}
}

// TestPublicHalfSwapped: another public object in the place of a pair's own is not given out as
// its public half, also when the pair was found before.
func TestPublicHalfSwapped(t *testing.T) {
	tok := testtoken.NSS(t)
	label := unique(t, "pair")
	root, err := tok.Generate(ctx, label, key.ECP256, derive.Agreeing)
	must(t, err)
	must(t, tok.Check(ctx, root))
	replacePublic(t, tok, label)
	_, err = tok.Public(ctx, root)
	wantCode(t, "another public half", err, fault.KeyState)
	must(t, tok.Destroy(ctx, label))
}

// TestPairOfSameCheckValue: a pair is told from another one of its check value, of which one is
// soon made, by its whole public half.
func TestPairOfSameCheckValue(t *testing.T) {
	tok := testtoken.NSS(t)
	label := unique(t, "pair")
	root, err := tok.Generate(ctx, label, key.ECP256, derive.Agreeing)
	must(t, err)
	public, err := tok.Public(ctx, root)
	must(t, err)
	other := root
	other.Public = string(derive.SubjectPublicKeyInfo(pair(t).PublicKey()))
	wantCode(t, "a pair of the same check value", tok.Check(ctx, other), fault.KeyState)
	root.Public = string(derive.SubjectPublicKeyInfo(public))
	must(t, tok.Check(ctx, root))
	_, err = tok.Public(ctx, root)
	must(t, err)
	must(t, tok.Destroy(ctx, label))
}
