package kms_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

func ceremonySignatures(digest [32]byte, names ...string) map[string][]byte {
	out := map[string][]byte{}
	for _, n := range names {
		out[n] = ed25519.Sign(officerKey(n), approval.CeremonyStatement(digest))
	}
	return out
}

func (h *harness) begin(file string, names ...string) error {
	digest := sha256.Sum256([]byte(file))
	_, err := h.service.BeginCeremony(h.ctx, "test", kms.NewCeremony{Digest: digest, Signatures: ceremonySignatures(digest, names...)})
	return err
}

// TestCeremonyNeedsOfficers: none while there are none and for the one that made them,
// else as many as the policy says, and none again for one that was signed.
func TestCeremonyNeedsOfficers(t *testing.T) {
	h := newHarness(t)
	h.must(h.begin("first"))
	h.must(h.begin("kept for later"))
	digestOf := func(file string) string { d := sha256.Sum256([]byte(file)); return hex.EncodeToString(d[:]) }
	first := []approval.Officer{officerNamed("ada"), officerNamed("bob"), officerNamed("cyd")}
	h.want("officers of a ceremony that did not begin", h.service.EnrolFirst(h.ctx, "test", digestOf("none"), first, 2), fault.NotFound)
	h.must(h.service.EnrolFirst(h.ctx, "test", digestOf("first"), first, 2))
	h.must(h.begin("first"))
	h.want("one that began before there were officers", h.begin("kept for later"), fault.ApprovalRequired)
	h.must(h.begin("kept for later", "ada", "bob"))
	h.must(h.begin("kept for later"))
	h.want("nobody signed", h.begin("second"), fault.ApprovalRequired)
	h.want("one signed", h.begin("second", "ada"), fault.ApprovalRequired)
	h.want("a stranger", h.begin("second", "ada", "bob", "eve"), fault.ProofFailed)
	other := sha256.Sum256([]byte("other"))
	digest := sha256.Sum256([]byte("second"))
	_, err := h.service.BeginCeremony(h.ctx, "test", kms.NewCeremony{Digest: digest, Signatures: ceremonySignatures(other, "ada", "bob")})
	h.want("signatures of another file", err, fault.ProofFailed)
	decision := map[string][]byte{}
	for _, n := range []string{"ada", "bob"} {
		decision[n] = ed25519.Sign(officerKey(n), approval.Statement(approval.Approve, digest))
	}
	_, err = h.service.BeginCeremony(h.ctx, "test", kms.NewCeremony{Digest: digest, Signatures: decision})
	h.want("approvals of a proposal", err, fault.ProofFailed)
	h.must(h.begin("second", "ada", "bob"))
	e := h.lastEntry()
	if e.Operation != "ceremony.begin" || !strings.HasPrefix(e.Detail["officer0"], "ada:") || !strings.HasPrefix(e.Detail["officer1"], "bob:") || e.Origin != audit.OriginConsole {
		t.Errorf("%+v", e)
	}
	h.must(h.begin("second"))
}

// TestCeremonySteps: intent, act, outcome; nothing before the ceremony began.
func TestCeremonySteps(t *testing.T) {
	h := newHarness(t)
	digest := sha256.Sum256([]byte("steps"))
	step := kms.CeremonyStep{Ceremony: hex.EncodeToString(digest[:]), Op: kms.CeremonyKEK, Object: "keks/k#1", Detail: map[string]string{"kcv": "gp-aes:000000"}}
	acted := 0
	act := func(err error) func(context.Context) error {
		return func(context.Context) error { acted++; return err }
	}
	h.want("before it began", h.service.CarryOut(h.ctx, "test", step, act(nil)), fault.NotFound)
	n := kms.NewKey{Issuer: h.issuer, Name: "new", Usage: key.GPSCP03, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: diversify.KDF3, KVN: 9, Ceremony: step.Ceremony}
	_, err := h.service.LoadKey(h.ctx, "test", n, known{h.token, make([]byte, 16)})
	h.want("a key before it began", err, fault.NotFound)
	_, err = h.service.EndCeremony(h.ctx, "test", step.Ceremony, "{}\n")
	h.want("the end before it began", err, fault.NotFound)
	h.must(h.begin("steps"))
	size := h.ledger.Size()
	h.must(h.service.CarryOut(h.ctx, "test", step, act(nil)))
	if acted != 1 || h.ledger.Size() != size+2 || h.lastEntry().Object != "keks/k_1" || h.lastEntry().Detail["ceremony"] != step.Ceremony || h.lastEntry().Intent == nil {
		t.Errorf("acted %d times, %d entries, %+v", acted, h.ledger.Size()-size, h.lastEntry())
	}
	why := fault.New(fault.TokenUnable, "cannot")
	if err := h.service.CarryOut(h.ctx, "test", step, act(why)); !errors.Is(err, why) && fault.CodeOf(err) != fault.TokenUnable {
		t.Errorf("a refusal: %v", err)
	}
	if e := h.lastEntry(); e.Outcome != "token_unable" || e.Decision != audit.Refused {
		t.Errorf("%+v", e)
	}
	_, err = h.service.LoadKey(h.ctx, "test", n, known{h.token, make([]byte, 16)})
	h.must(err)
	if h.lastEntry().Detail["ceremony"] != step.Ceremony {
		t.Errorf("%+v", h.lastEntry())
	}
	for range 2 { // whoever lost the record ends it once more
		signed, err := h.service.EndCeremony(h.ctx, "test", step.Ceremony, "{}\n")
		if h.must(err); !strings.HasPrefix(string(signed), "{}\n\n— ") || h.lastEntry().Operation != "ceremony.end" {
			t.Errorf("%s", signed)
		}
	}
	h.want("a step after the end", h.service.CarryOut(h.ctx, "test", step, act(nil)), fault.Conflict)
	n.KVN = 10
	_, err = h.service.LoadKey(h.ctx, "test", n, known{h.token, make([]byte, 16)})
	h.want("a key after the end", err, fault.Conflict)
}
