package audit_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cardkms/audit"

	"github.com/google/go-cmp/cmp"
	formats "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

const origin = "kms.example.com/audit"

var errToken = errors.New("token lost")

// ed25519Key stands in for a key in a token.
var ed25519Key = ed25519.NewKeyFromSeed(make([]byte, 32))

func newEd25519(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	pub := ed25519Key.Public().(ed25519.PublicKey)
	s, err := audit.NewSigner(origin, pub, func(msg []byte) ([]byte, error) { return ed25519.Sign(ed25519Key, msg), nil })
	if err != nil {
		t.Fatal(err)
	}
	return s, verifierOf(t, pub)
}

func verifierOf(t testing.TB, pub any) note.Verifier {
	t.Helper()
	vkey, err := audit.VerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newECDSA(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewECDSASigner(origin, &key.PublicKey, func(digest []byte) ([]byte, error) {
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		raw := make([]byte, 64)
		r.FillBytes(raw[:32])
		s.FillBytes(raw[32:])
		return raw, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, verifierOf(t, &key.PublicKey)
}

func checkpoint(extensions ...string) audit.Checkpoint {
	c := audit.Checkpoint{Origin: origin, Size: 1234, Extensions: extensions}
	c.Root[0], c.Root[31] = 1, 0xff
	return c
}

func TestCheckpointIsSignedAndOpened(t *testing.T) {
	for name, keys := range map[string]func(testing.TB) (note.Signer, note.Verifier){"ed25519": newEd25519, "ecdsa": newECDSA} {
		t.Run(name, func(t *testing.T) {
			s, v := keys(t)
			for _, want := range []audit.Checkpoint{checkpoint(), checkpoint("state abc", "more")} {
				msg, err := audit.SignCheckpoint(want, s)
				if err != nil {
					t.Fatal(err)
				}
				got, err := audit.OpenCheckpoint(msg, origin, v)
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("%v %s", err, diff)
				}
				for i := range msg { // every byte is signed, or part of the form
					forged := append([]byte(nil), msg...)
					forged[i] ^= 1
					if c, err := audit.OpenCheckpoint(forged, origin, v); err == nil {
						t.Errorf("byte %d changed: %+v", i, c)
					}
				}
			}
		})
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	s, v := newEd25519(t)
	msg, err := audit.SignCheckpoint(checkpoint(), s)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := newECDSA(t)
	text, sig, _ := strings.Cut(string(msg), "\n\n")
	for _, tt := range []struct {
		name, msg, origin string
		v                 note.Verifier
		want              error
	}{
		{"other key", string(msg), origin, stranger, audit.ErrSignature},
		{"other origin", string(msg), "other", v, audit.ErrCheckpoint},
		{"other size", strings.Replace(string(msg), "1234", "1235", 1), origin, v, audit.ErrSignature},
		{"no signature", text + "\n", origin, v, audit.ErrCheckpoint},
		{"extension added", text + "\nmore\n\n" + sig, origin, v, audit.ErrSignature},
		{"empty", "", origin, v, audit.ErrCheckpoint},
		{"too long", strings.Repeat("x", audit.CheckpointBytesMax+1), origin, v, audit.ErrCheckpoint},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := audit.OpenCheckpoint([]byte(tt.msg), tt.origin, tt.v); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestCheckpointAgrees compares with transparency-dev/formats.
func TestCheckpointAgrees(t *testing.T) {
	c := checkpoint()
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	other := formats.Checkpoint{Origin: c.Origin, Size: uint64(c.Size), Hash: c.Root[:]}
	if got := string(other.Marshal()); got != text {
		t.Errorf("we write %q, formats writes %q", text, got)
	}
	s, v := newEd25519(t)
	msg, err := audit.SignCheckpoint(c, s)
	if err != nil {
		t.Fatal(err)
	}
	parsed, rest, _, err := formats.ParseCheckpoint(msg, origin, v)
	if err != nil || len(rest) != 0 || parsed.Size != uint64(c.Size) || string(parsed.Hash) != string(c.Root[:]) {
		t.Errorf("formats reads %+v, %q, %v", parsed, rest, err)
	}
}

func TestCheckpointTextRefuses(t *testing.T) {
	for name, c := range map[string]audit.Checkpoint{
		"no origin":           {Size: 1},
		"line in origin":      {Origin: "a\nb"},
		"negative size":       {Origin: "a", Size: -1},
		"empty extension":     {Origin: "a", Extensions: []string{""}},
		"line in extension":   {Origin: "a", Extensions: []string{"a\nb"}},
		"extension not UTF-8": {Origin: "a", Extensions: []string{"\xff"}},
	} {
		if _, err := c.Text(); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, _ := checkpoint("more").Text()
	for name, text := range map[string]string{
		"empty": "", "two lines": "a\n1\n", "no line feed": good[:len(good)-1], "empty line": good + "\n",
		"leading zero": strings.Replace(good, "1234", "01234", 1), "negative": strings.Replace(good, "1234", "-1", 1),
		"short root": strings.Replace(good, "AQAA", "AQ==", 1), "url base64": strings.Replace(good, "AQAA", "AQA-", 1),
		"root with spare bits": strings.Replace(good, "P8=", "P9=", 1),
	} {
		if text == good {
			t.Errorf("%s: the text was not changed", name)
		}
		if _, err := audit.ParseCheckpoint(text); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerifierKeysAgree compares Ed25519 verifier keys with those of x/mod.
func TestVerifierKeysAgree(t *testing.T) {
	pub := ed25519Key.Public().(ed25519.PublicKey)
	want, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	got, err := audit.VerifierKey(origin, pub)
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// TestRekorVerifierKey reads the ECDSA verifier key that the documentation of
// transparency-dev/formats v0.1.1, note.NewECDSAVerifier, gives as its example;
// its key id there is a placeholder, so the right one is put in its place.
func TestRekorVerifierKey(t *testing.T) {
	const key = "AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="
	v, err := audit.NewVerifier("rekor.sigstore.dev+c0d23d6a+" + key)
	if err != nil || fmt.Sprintf("%08x", v.KeyHash()) != "c0d23d6a" {
		t.Errorf("%v", err)
	}
	if _, err := audit.NewVerifier("rekor.sigstore.dev+12345678+" + key); !errors.Is(err, audit.ErrKey) {
		t.Errorf("a wrong key id: %v", err)
	}
}

func TestKeysRefuse(t *testing.T) {
	pub := ed25519Key.Public().(ed25519.PublicKey)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "a b", "a+b", "a\n", "\xff"} {
		if _, err := audit.VerifierKey(name, pub); !errors.Is(err, audit.ErrKey) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, k := range []any{pub[:31], &p384.PublicKey, (*ecdsa.PublicKey)(nil), "key", nil} {
		if _, err := audit.VerifierKey(origin, k); !errors.Is(err, audit.ErrKey) {
			t.Errorf("key %T: %v", k, err)
		}
	}
	good, _ := audit.VerifierKey(origin, pub)
	for _, vkey := range []string{"", "a", "a+b", "a+00000000+", good[:len(good)-4], strings.Replace(good, "kms", "kmt", 1), good + "+", "x+00000000+AAAA", "x+00000000+AgAA"} {
		if _, err := audit.NewVerifier(vkey); !errors.Is(err, audit.ErrKey) {
			t.Errorf("vkey %q: %v", vkey, err)
		}
	}
}

// TestSignerChecksTheToken: errors pass, and a wrong signature never leaves.
func TestSignerChecksTheToken(t *testing.T) {
	pub := ed25519Key.Public().(ed25519.PublicKey)
	for name, sign := range map[string]func([]byte) ([]byte, error){
		"token lost":      func([]byte) ([]byte, error) { return nil, errToken },
		"wrong signature": func([]byte) ([]byte, error) { return make([]byte, 64), nil },
		"other message":   func([]byte) ([]byte, error) { return ed25519.Sign(ed25519Key, []byte("other")), nil },
	} {
		s, err := audit.NewSigner(origin, pub, sign)
		if err != nil {
			t.Fatal(err)
		}
		_, err = audit.SignCheckpoint(checkpoint(), s)
		if err == nil || name == "token lost" && !errors.Is(err, errToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][]byte{nil, make([]byte, 63), make([]byte, 64)} {
		s, err := audit.NewECDSASigner(origin, &key.PublicKey, func([]byte) ([]byte, error) { return raw, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := audit.SignCheckpoint(checkpoint(), s); err == nil {
			t.Errorf("a signature of %d zero bytes passes", len(raw))
		}
	}
	if _, err := audit.SignCheckpoint(checkpoint()); err == nil {
		t.Error("a checkpoint without a signer")
	}
}
