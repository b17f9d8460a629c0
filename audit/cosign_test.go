package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cardkms/audit"

	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/witness"
	"golang.org/x/mod/sumdb/note"
)

const witnessName = "witness.example.com/w1"

var (
	witnessKey  = ed25519.NewKeyFromSeed([]byte("witness key of the tests, 32 B. "))
	witnessTime = time.Date(2026, 11, 12, 9, 31, 0, 0, time.UTC)
)

func newWitness(t testing.TB) (s note.Signer, v note.Verifier, vkey string) {
	t.Helper()
	s, err := audit.NewCosigner(witnessName, witnessKey, func() time.Time { return witnessTime.Add(time.Millisecond) })
	if err != nil {
		t.Fatal(err)
	}
	vkey, err = audit.CosignerKey(witnessName, witnessKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if v, err = audit.NewVerifier(vkey); err != nil {
		t.Fatal(err)
	}
	return s, v, vkey
}

// cosigned is a checkpoint signed by the log and these signers.
func cosigned(t testing.TB, signers ...note.Signer) []byte {
	t.Helper()
	s, _ := newEd25519(t)
	msg, err := audit.SignCheckpoint(checkpoint(), append([]note.Signer{s}, signers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestCosignature(t *testing.T) {
	s, v, _ := newWitness(t)
	msg := cosigned(t, s)
	at, err := audit.CosignatureTime(msg, v)
	if err != nil || !at.Equal(witnessTime) {
		t.Errorf("%v, %v", at, err)
	}
	_, log := newEd25519(t)
	if _, err := audit.OpenCheckpoint(msg, origin, log); err != nil {
		t.Errorf("the log's own signature: %v", err)
	}
	for i := range msg { // a bit of the log's signature is OpenCheckpoint's to find
		msg[i] ^= 1
		_, err1 := audit.CosignatureTime(msg, v)
		_, err2 := audit.OpenCheckpoint(msg, origin, log)
		if err1 == nil && err2 == nil {
			t.Errorf("byte %d changed and nobody noticed", i)
		}
		msg[i] ^= 1
	}
}

// TestCosignaturesAgree has transparency-dev/formats verify our cosignature, and
// us verify one of theirs.
func TestCosignaturesAgree(t *testing.T) {
	s, v, vkey := newWitness(t)
	theirs, err := formats.NewVerifierForCosignatureV1(vkey)
	if err != nil || theirs.KeyHash() != v.KeyHash() {
		t.Fatalf("their verifier: %v", err)
	}
	n, err := note.Open(cosigned(t, s), note.VerifierList(theirs))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := formats.CoSigV1Timestamp(n.Sigs[0]); err != nil || !at.Equal(witnessTime) {
		t.Errorf("they read the time %v, %v", at, err)
	}
	policy, err := witness.ParsePolicy(fmt.Appendf(nil, "witness w1 %s https://witness.example.com\nquorum w1\n", vkey))
	if err != nil || !policy.Satisfied(cosigned(t, s)) || policy.Satisfied(cosigned(t)) {
		t.Errorf("their policy is not satisfied by exactly our cosignature, %v", err)
	}
	seed := base64.StdEncoding.EncodeToString(append([]byte{4}, witnessKey.Seed()...))
	signer, err := formats.NewSignerForCosignatureV1(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", witnessName, v.KeyHash(), seed))
	if err != nil {
		t.Fatal(err)
	}
	at, err := audit.CosignatureTime(cosigned(t, signer), v)
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("their cosignature: %v, %v", at, err)
	}
}

func TestCosignaturesRefuse(t *testing.T) {
	s, v, vkey := newWitness(t)
	_, log := newEd25519(t)
	if _, err := audit.CosignatureTime(cosigned(t), v); !errors.Is(err, audit.ErrCosignature) {
		t.Errorf("no cosignature: %v", err)
	}
	if _, err := audit.CosignatureTime(cosigned(t, s), log); !errors.Is(err, audit.ErrKey) {
		t.Errorf("a log's key as a witness's: %v", err)
	}
	if _, err := audit.OpenCheckpoint(cosigned(t, s), witnessName, v); !errors.Is(err, audit.ErrKey) {
		t.Errorf("a witness's key as a log's: %v", err)
	}
	if _, err := audit.CosignatureTime([]byte("x"), v); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("no note: %v", err)
	}
	for _, bad := range []string{vkey[:len(vkey)-4], strings.Replace(vkey, "w1+", "w2+", 1)} {
		if _, err := audit.NewVerifier(bad); !errors.Is(err, audit.ErrKey) {
			t.Errorf("verifier key %s: %v", bad, err)
		}
	}
	if _, err := audit.NewCosigner("a b", witnessKey, time.Now); !errors.Is(err, audit.ErrKey) {
		t.Errorf("name with a space: %v", err)
	}
	if _, err := audit.NewCosigner(witnessName, witnessKey[:63], time.Now); !errors.Is(err, audit.ErrKey) {
		t.Errorf("short key: %v", err)
	}
	early, err := audit.NewCosigner(witnessName, witnessKey, func() time.Time { return time.Unix(-1, 0) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.SignCheckpoint(checkpoint(), early); err == nil {
		t.Error("a cosignature from before 1970")
	}
}

// TestRemoteCosigner: a key elsewhere makes the same cosignatures, and one that signs
// wrongly makes none.
func TestRemoteCosigner(t *testing.T) {
	at := func() time.Time { return witnessTime }
	public := witnessKey.Public().(ed25519.PublicKey)
	here, err := audit.NewCosigner(witnessName, witnessKey, at)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("origin\n1\nroot\n")
	want, err := here.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	away := errors.New("away")
	for name, f := range map[string]struct {
		sign func([]byte) ([]byte, error)
		good bool
	}{
		"right":   {func(m []byte) ([]byte, error) { return ed25519.Sign(witnessKey, m), nil }, true},
		"away":    {func([]byte) ([]byte, error) { return nil, away }, false},
		"wrong":   {func(m []byte) ([]byte, error) { return ed25519.Sign(witnessKey, m[1:]), nil }, false},
		"nothing": {func([]byte) ([]byte, error) { return nil, nil }, false},
	} {
		remote, err := audit.NewRemoteCosigner(witnessName, public, at, f.sign)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remote.Sign(text); (err == nil) != f.good || f.good && !bytes.Equal(got, want) {
			t.Errorf("%s: %X, %v", name, got, err)
		}
	}
	vkey, err := audit.CosignerKey(witnessName, public)
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := audit.CosignerPublicKey(v); err != nil || !got.Equal(public) {
		t.Errorf("%X, %v", got, err)
	}
	if _, err := audit.NewRemoteCosigner(witnessName, public[:31], at, nil); !errors.Is(err, audit.ErrKey) {
		t.Errorf("a short key: %v", err)
	}
}
