package kms_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

func ceremonySignatures(digest [32]byte, names ...string) approval.Signatures {
	out := approval.Signatures{}
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
	h.must(h.begin("first", "ada"))
	h.must(h.begin("kept for later"))
	digestOf := func(file string) string { d := sha256.Sum256([]byte(file)); return hex.EncodeToString(d[:]) }
	first := []approval.Officer{officerNamed("ada"), officerNamed("bob"), officerNamed("cyd")}
	h.want("officers of a ceremony that did not begin", h.service.EnrolFirst(h.ctx, "test", digestOf("none"), first, 2), fault.NotFound)
	h.want("one of them signed the ceremony", h.service.EnrolFirst(h.ctx, "test", digestOf("first"), first, 2), fault.ApprovalRequired)
	h.must(h.begin("first", "ada", "eve"))
	h.want("a stranger signed it", h.service.EnrolFirst(h.ctx, "test", digestOf("first"), first, 2), fault.ProofFailed)
	h.must(h.begin("first", "ada", "cyd"))
	h.must(h.service.EnrolFirst(h.ctx, "test", digestOf("first"), first, 2))
	if e := h.lastEntry(); e.Detail["ceremony"] != digestOf("first") {
		t.Errorf("%+v", e)
	}
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
	decision := approval.Signatures{}
	for _, n := range []string{"ada", "bob"} {
		decision[n] = ed25519.Sign(officerKey(n), approval.Statement(approval.Approve, digest))
	}
	_, err = h.service.BeginCeremony(h.ctx, "test", kms.NewCeremony{Digest: digest, Signatures: decision})
	h.want("approvals of a proposal", err, fault.ProofFailed)
	h.must(h.begin("second", "ada", "bob"))
	e := h.lastEntry()
	if e.Operation != "ceremony.begin" || e.Origin != audit.OriginConsole {
		t.Errorf("%+v", e)
	}
	h.must(h.begin("second"))
	h.proven(0) // an auditor comes to the same
}

// TestEverySignatureIsLogged: also of more officers than one detail holds.
func TestEverySignatureIsLogged(t *testing.T) {
	h := newHarness(t)
	names := []string{"ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"}
	var first []approval.Officer
	for _, n := range names {
		first = append(first, officerNamed(n))
	}
	h.must(h.service.EnrolFirst(h.ctx, "test", "", first, 7))
	h.want("six of seven", h.begin("file", names[:6]...), fault.ApprovalRequired)
	h.must(h.begin("file", names...))
	h.proven(0)
	var many []string
	for i := range approval.SignaturesMax + 1 {
		many = append(many, fmt.Sprintf("o%d", i))
	}
	h.want("more than the log has room for", h.begin("file", many...), fault.TooLarge)
}

// TestAbandonedCeremony does not go on; one that never began may begin.
func TestAbandonedCeremony(t *testing.T) {
	h := newHarness(t)
	digest := sha256.Sum256([]byte("given up"))
	id := hex.EncodeToString(digest[:])
	acted := 0
	act := func(context.Context) error { acted++; return nil }
	size := h.ledger.Size()
	h.must(h.service.AbandonCeremony(h.ctx, "test", id, act))
	if h.ledger.Size() != size {
		t.Error("the log tells of a ceremony that never began")
	}
	h.must(h.begin("given up"))
	for range 2 {
		h.must(h.service.AbandonCeremony(h.ctx, "test", id, act))
		if e := h.lastEntry(); e.Operation != "ceremony.abandon" || e.Intent == nil || e.Outcome != audit.OutcomeOK {
			t.Errorf("%+v", e)
		}
	}
	if acted != 3 {
		t.Errorf("acted %d times", acted)
	}
	h.want("it begins again", h.begin("given up"), fault.Conflict)
	step := kms.CeremonyStep{Ceremony: id, Op: kms.CeremonyKEK, Object: "keks/k"}
	h.want("a step", h.service.CarryOut(h.ctx, "test", step, act), fault.Conflict)
	_, err := h.service.EndCeremony(h.ctx, "test", id, "{}\n")
	h.want("its end", err, fault.Conflict)
}

// TestKEKRow: the database says which ceremony made a key-encryption key, from the
// outcome on, and until it is destroyed.
func TestKEKRow(t *testing.T) {
	h := newHarness(t)
	h.must(h.begin("keks"))
	digest := sha256.Sum256([]byte("keks"))
	step := kms.CeremonyStep{Ceremony: hex.EncodeToString(digest[:]), Step: "kek k", Op: kms.CeremonyKEK, Object: "keks/k"}
	broken := errors.New("broke off")
	act := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	want := func(what string, made, destroyed bool) {
		t.Helper()
		k, err := h.service.KEK(h.ctx, "k")
		if err != nil || k.Made != made || k.Destroyed != destroyed || k.KCV != "gp-aes:000000" || k.Ceremony != step.Ceremony {
			t.Errorf("%s: %+v, %v", what, k, err)
		}
	}
	_, err := h.service.KEK(h.ctx, "k")
	h.want("none yet", err, fault.NotFound)
	k := kms.KEK{Algorithm: "aes-256", KCV: "gp-aes:000000"}
	if err := h.service.MakeKEK(h.ctx, "test", "k", step, k, act(broken)); err == nil {
		t.Error("an act that failed")
	}
	want("an attempt", false, false)
	h.must(h.service.MakeKEK(h.ctx, "test", "k", step, k, act(nil)))
	want("made", true, false)
	h.want("made twice", h.service.MakeKEK(h.ctx, "test", "k", step, k, act(nil)), fault.Conflict)
	if c, err := h.service.Ceremony(h.ctx, step.Ceremony); err != nil || c.Steps["kek k"].By != "test" || c.Steps["kek k"].At.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	gone := step
	gone.Op = kms.CeremonyDestroy
	h.must(h.service.DestroyKEK(h.ctx, "test", "k", gone, act(nil)))
	want("destroyed", true, true)
	h.must(h.service.MakeKEK(h.ctx, "test", "k", step, k, act(nil)))
	want("made anew", true, false)
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
	n := kms.NewKey{Step: "key", Issuer: h.issuer, Name: "new", Usage: key.GPSCP03, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: diversify.KDF3, KVN: 9, Ceremony: step.Ceremony}
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
	v, err := h.service.LoadKey(h.ctx, "test", n, known{h.token, make([]byte, 16)})
	h.must(err)
	c, err := h.service.Ceremony(h.ctx, step.Ceremony)
	h.must(err)
	if h.lastEntry().Detail["ceremony"] != step.Ceremony || v.Ceremony != step.Ceremony || c.Steps["key"].By != "test" {
		t.Errorf("%+v, %+v, %+v", h.lastEntry(), v, c)
	}
	h.must(h.service.TellToken(h.ctx, "test", step.Ceremony, "prod", map[string]string{"initialised": "yes"}))
	if e := h.lastEntry(); e.Operation != "ceremony.token" || e.Object != "tokens/prod" || e.Detail["initialised"] != "yes" {
		t.Errorf("%+v", e)
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
