package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// TestSigning verifies the token's signatures with Go's own algorithms.
func TestSigning(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		algorithms := []key.Algorithm{key.P256}
		if tok.PreferredSigning() == key.Ed25519 {
			algorithms = append(algorithms, key.Ed25519)
		} else if !tok.Native() {
			t.Error("SoftHSM2 has Ed25519 and it is not preferred")
		}
		for _, a := range algorithms {
			label := unique(t, string(a))
			if _, err := tok.GenerateSigning(ctx, label, a); err != nil {
				t.Fatal(err)
			}
			k, err := tok.Signing(ctx, label)
			if err != nil {
				t.Fatal(err)
			}
			message := []byte("a checkpoint")
			digest := sha256.Sum256(message)
			input := digest[:]
			if a == key.Ed25519 {
				input = message
			}
			sig, err := k.Sign(ctx, input)
			if err != nil || len(sig) != 64 {
				t.Fatalf("%s: %d bytes, %v", a, len(sig), err)
			}
			ok := false
			if a == key.Ed25519 {
				ok = ed25519.Verify(k.Public, message, sig)
			} else if pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Public); err == nil {
				ok = ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
			}
			if !ok {
				t.Errorf("%s: the signature does not verify", a)
			}
			_, err = tok.GenerateSigning(ctx, label, a)
			wantCode(t, "a second pair of that name", err, fault.Conflict)
			other := *k
			other.Public = bytes.Clone(k.Public)
			other.Public[5] ^= 1
			_, err = other.Sign(ctx, input)
			wantCode(t, "a pair whose public half is another", err, fault.KeyState)
		}
		_, err := tok.Signing(ctx, t.Name()+"/unknown")
		wantCode(t, "an unknown pair", err, fault.KeyState)
	})
}

// TestLease: an operation that finds every session busy waits until its context
// ends and says token_unavailable; afterwards the token serves as before.
func TestLease(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		soft := new(derivetest.Token)
		mac := cardKey(t, importRoot(t, tok, soft, "m", key.AES128, derive.Static), 1, diversify.MAC, derive.SessionMAC)
		dek := cardKey(t, mac.Parent(), 1, diversify.DEK, derive.DataEncryption)
		large, err := diversify.Card(diversify.KDF3, mac.Parent(), make([]byte, 10), diversify.Target{Purpose: 3, Class: derive.Transport, Algorithm: key.AES192})
		if err != nil {
			t.Fatal(err)
		}
		give := tok.HoldSessions()
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_, err = tok.MAC(ended, mac, nil)
		wantCode(t, "while every session is busy", err, fault.TokenUnavailable)
		_, err = tok.Wrap(ended, dek, large)
		wantCode(t, "wrapping 24 bytes meanwhile", err, fault.TokenUnavailable)
		restore := tok.SetLeaseWait(time.Millisecond)
		_, err = tok.MAC(ctx, mac, nil)
		wantCode(t, "without an end of its own", err, fault.TokenUnavailable)
		restore()
		tok.Release(mac) // must not wait for a session
		give()
		got, err := tok.MAC(ctx, mac, nil)
		want, _ := soft.MAC(ctx, mac, nil)
		compare(t, "afterwards", got, err, want)
		tok.Release(mac)
	})
}

// TestRandom gives what was asked for, and two different answers.
func TestRandom(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		seen := map[string]bool{}
		for range 100 {
			b, err := tok.Random(ctx, 16)
			if err != nil || len(b) != 16 || seen[string(b)] {
				t.Fatalf("%X, %v", b, err)
			}
			seen[string(b)] = true
		}
	})
}
