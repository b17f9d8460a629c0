package server

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms/approval"
)

// officerKey makes the key of the officer with an identity.
func officerKey(uri string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(uri))
	return ed25519.NewKeyFromSeed(seed[:])
}

func officerOf(uri string) approval.Officer {
	return approval.Officer{Name: path.Base(uri), Identity: uri, Public: officerKey(uri).Public().(ed25519.PublicKey), State: approval.Active}
}

// send is a change of a client.
func sendAs(w *world, as, path string, body any) ask {
	return ask{as: as, method: http.MethodPost, path: path, body: body, key: newKey()}
}

// signed is the body of a decision about a proposal.
func signed(p api.Proposal, uri string, d approval.Decision) api.Decide {
	digest := approval.DigestOf([]byte(p.Encoding))
	return api.Decide{Signature: ed25519.Sign(officerKey(uri), approval.Statement(d, digest))}
}

const proposals = "/v1/proposals"

func (w *world) propose(in api.Propose) api.Proposal {
	w.t.Helper()
	return want[api.Proposal](w, w.do(sendAs(w, uriOfficer, proposals, in)))
}

// TestSuspendAndResumeClient: one officer stops a client, also one that is connected.
func TestSuspendAndResumeClient(t *testing.T) {
	w := newWorld(t)
	const at = "/v1/clients:suspend"
	if s := want[api.Suspension](w, w.do(sendAs(w, uriOfficer, at, api.SuspendClient{Client: uriAuditor}))); s.Client != uriAuditor || s.By != uriOfficer {
		t.Errorf("%+v", s)
	}
	refused(t, w.checkpoint(uriAuditor), api.Forbidden)
	if l := want[api.SuspensionList](w, w.do(ask{as: uriBob, method: http.MethodGet, path: "/v1/clients"})); len(l.Clients) != 1 || l.Clients[0].Client != uriAuditor {
		t.Errorf("%+v", l)
	}
	for _, uri := range []string{uriBob, "auditor", "spiffe://"} {
		refused(t, w.do(sendAs(w, uriOfficer, at, api.SuspendClient{Client: uri})), api.InvalidInput)
	}
	w.decided("client.resume", "clients/"+strings.TrimPrefix(uriAuditor, "spiffe://"))
	if rec := w.checkpoint(uriAuditor); rec.Code != http.StatusOK {
		t.Errorf("afterwards: %d %s", rec.Code, rec.Body)
	}
}

// TestHaltAndResume is dual control from one end to the other: one officer stops,
// two others have it go on.
func TestHaltAndResume(t *testing.T) {
	w := newWorld(t)
	resume := api.Propose{Operation: "system.resume", Object: "system/halt"}
	refused(t, w.do(sendAs(w, uriOfficer, proposals, resume)), api.Conflict)
	if s := want[api.System](w, w.do(sendAs(w, uriOperator, "/v1/system:halt", struct{}{}))); !s.Halted {
		t.Error("not halted")
	}
	refused(t, w.do(sendAs(w, uriUpdate, acme+"/channels", api.OpenChannel{Key: "isd", KVN: 0x30})), api.Halted)
	if h := want[api.Health](w, w.do(ask{method: http.MethodGet, path: "/readyz"})); h.Status != "halted" || len(h.Tokens) == 0 {
		t.Errorf("readyz of a halted service: %+v", h)
	}
	preview := resume
	preview.ValidateOnly = true
	if p := w.propose(preview); p.ExpectedVersion != 1 || p.Required != 2 {
		t.Errorf("preview: %+v", p)
	}
	if l := w.listed(uriOfficer); len(l.Proposals) != 0 {
		t.Errorf("a preview was kept: %+v", l)
	}
	p := w.propose(resume)
	at := proposals + "/" + p.ID
	refused(t, w.do(sendAs(w, uriOfficer, at+":approve", signed(p, uriOfficer, approval.Approve))), api.Forbidden)
	refused(t, w.do(sendAs(w, uriBob, at+":approve", signed(p, uriCyd, approval.Approve))), api.ProofFailed)
	refused(t, w.do(sendAs(w, uriBound, at+":approve", signed(p, uriBob, approval.Approve))), api.NotFound)
	p = want[api.Proposal](w, w.do(sendAs(w, uriBob, at+":approve", signed(p, uriBob, approval.Approve))))
	if p.State != api.ProposalOpen || p.Counted != 1 || len(p.Decisions) != 1 {
		t.Errorf("one approval: %+v", p)
	}
	refused(t, w.do(sendAs(w, uriOfficer, at+":execute", struct{}{})), api.ApprovalRequired)
	p = want[api.Proposal](w, w.do(sendAs(w, uriCyd, at+":approve", signed(p, uriCyd, approval.Approve))))
	if p.State != api.ProposalApproved {
		t.Errorf("two approvals: %+v", p)
	}
	execute := sendAs(w, uriOfficer, at+":execute", struct{}{})
	for range 2 { // the second is the first one's answer
		if p = want[api.Proposal](w, w.do(execute)); p.State != api.ProposalExecuted {
			t.Errorf("executed: %+v", p)
		}
	}
	refused(t, w.do(sendAs(w, uriOfficer, at+":execute", struct{}{})), api.ApprovalVoid)
	w.open()
	if h := want[api.Health](w, w.do(ask{method: http.MethodGet, path: "/readyz"})); h.Status != "ready" {
		t.Errorf("readyz of a resumed service: %+v", h)
	}
	if l := w.listed(uriAuditor); len(l.Proposals) != 1 || l.Proposals[0].EndedBy != officerOf(uriOfficer).Name {
		t.Errorf("%+v", l)
	}
	if l := w.listed(uriBound); len(l.Proposals) != 0 {
		t.Errorf("an officer of another issuer sees %+v", l)
	}
}

func (w *world) listed(as string) api.ProposalList {
	w.t.Helper()
	return want[api.ProposalList](w, w.do(ask{as: as, method: http.MethodGet, path: proposals}))
}

func TestRejection(t *testing.T) {
	w := newWorld(t)
	p := w.propose(api.Propose{Operation: "policy.set", Object: "policies/default", Params: map[string]string{"k": "2"}, LifeSeconds: 60})
	refused(t, w.do(sendAs(w, uriBob, proposals+"/"+p.ID+":reject", signed(p, uriBob, approval.Approve))), api.ProofFailed)
	p = want[api.Proposal](w, w.do(sendAs(w, uriBob, proposals+"/"+p.ID+":reject", signed(p, uriBob, approval.Reject))))
	if p.State != api.ProposalRejected || p.EndedBy != "bob" || p.Ended.IsZero() {
		t.Errorf("%+v", p)
	}
	got := want[api.Proposal](w, w.do(ask{as: uriAuditor, method: http.MethodGet, path: proposals + "/" + p.ID}))
	if got.State != p.State || got.Encoding != p.Encoding {
		t.Errorf("%+v", got)
	}
	c := want[api.Control](w, w.do(ask{as: uriAuditor, method: http.MethodGet, path: "/v1/officers"}))
	if len(c.Officers) != 3 || c.Officers[1].Name != "cyd" || c.Policies[0] != (api.Policy{Operation: "default", K: 2}) {
		t.Errorf("%+v", c)
	}
}

// TestProposals that make no sense are refused, and none of their values is in the
// answer.
func TestProposals(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		in   api.Propose
		code api.Code
	}{
		"operation":     {api.Propose{Operation: "channel.open", Object: "x"}, api.InvalidInput},
		"policy of 1":   {api.Propose{Operation: "policy.set", Object: "policies/default", Params: map[string]string{"k": "1"}}, api.InvalidInput},
		"no card":       {api.Propose{Issuer: "acme", Operation: "card.release", Object: "issuers/acme/cards/" + strings.Repeat("F", 20)}, api.NotFound},
		"other version": {api.Propose{Operation: "policy.set", Object: "policies/default", Params: map[string]string{"k": "2"}, ExpectedVersion: new(int64)}, api.ApprovalVoid},
		"secret":        {api.Propose{Operation: "officer.remove", Object: "officers/bob", Params: map[string]string{"reason": "s3cr3t value"}}, api.InvalidInput},
	} {
		rec := w.do(sendAs(w, uriOfficer, proposals, c.in))
		refused(t, rec, c.code)
		if strings.Contains(rec.Body.String(), "s3cr3t") || strings.Contains(w.log.String(), "s3cr3t") {
			t.Errorf("%s: the answer or the log repeats a value", name)
		}
	}
}

// TestProfiles: a document goes with its proposal, officers see it, and it is a version
// of the profile after that.
func TestProfiles(t *testing.T) {
	w := newWorld(t)
	const at = "/v1/issuers/acme/profiles"
	l := want[api.CardProfileList](w, w.do(ask{as: uriUpdate, method: http.MethodGet, path: at}))
	if len(l.Profiles) != 1 || l.Profiles[0].Profile != "default" || l.Profiles[0].Version != 1 || l.Profiles[0].Document != "" {
		t.Errorf("%+v", l)
	}
	document := strings.Replace(testProfile, "chunkSize: 128", "chunkSize: 256", 1)
	digest := sha256.Sum256([]byte(document))
	in := api.Propose{
		Issuer: "acme", Operation: "profile.register", Object: "issuers/acme/profiles/default", Document: document,
		Params: map[string]string{"sha256": hex.EncodeToString(digest[:])},
	}
	p := w.propose(in)
	for _, as := range []string{uriBob, uriCyd} {
		want[api.Proposal](w, w.do(sendAs(w, as, proposals+"/"+p.ID+":approve", signed(p, as, approval.Approve))))
	}
	got := want[api.Proposal](w, w.do(ask{as: uriBob, method: http.MethodGet, path: proposals + "/" + p.ID}))
	if got.Document != document {
		t.Errorf("officers see %q", got.Document)
	}
	if l := w.listed(uriAuditor); l.Proposals[0].Document != "" {
		t.Error("a list holds documents")
	}
	want[api.Proposal](w, w.do(sendAs(w, uriOfficer, proposals+"/"+p.ID+":execute", struct{}{})))
	for version, text := range map[string]string{"": document, "?version=1": testProfile, "?version=2": document} {
		c := want[api.CardProfile](w, w.do(ask{as: uriOfficer, method: http.MethodGet, path: at + "/default" + version}))
		if c.Document != text || version != "?version=1" && (c.Version != 2 || !bytes.Equal(c.SHA256, digest[:])) {
			t.Errorf("%q: %+v", version, c)
		}
	}
	refused(t, w.do(ask{as: uriOfficer, method: http.MethodGet, path: at + "/default?version=3"}), api.NotFound)
	refused(t, w.do(ask{as: uriOfficer, method: http.MethodGet, path: at + "/none"}), api.NotFound)
	in.Document = strings.Replace(document, "scp03", "s3cr3t", 1)
	digest = sha256.Sum256([]byte(in.Document))
	in.Params["sha256"] = hex.EncodeToString(digest[:])
	rec := w.do(sendAs(w, uriOfficer, proposals, in))
	refused(t, rec, api.InvalidInput)
	if strings.Contains(rec.Body.String(), "s3cr3t") {
		t.Error("the answer repeats a value")
	}
}
