package hsm_test

import (
	"crypto/ecdh"
	"errors"
	"path/filepath"
	"testing"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
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
