package kms_test

import (
	"strings"
	"testing"
	"time"

	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
)

// TestSuspendClient: one officer stops a client, also on a channel that is open and in
// every other process; only an approved proposal lets it go on.
func TestSuspendClient(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	uri := h.req().Caller.ID
	other, err := kms.New(h.config())
	h.must(err)
	resume := kms.ProposeInput{Operation: approval.ClientResume, Object: "clients/" + strings.TrimPrefix(uri, "spiffe://")}
	_, err = h.propose("ada", resume)
	h.want("resuming what was never suspended", err, fault.NotFound)

	s, err := h.service.SuspendClient(h.ctx, h.officer("ada"), uri)
	h.must(err)
	if s.Client != uri || !s.Suspended || s.By != h.officer("ada").Caller.ID {
		t.Errorf("%+v", s)
	}
	_, err = h.ask(card, id, plain("80CA006600"))
	h.want("on an open channel", err, fault.Forbidden)
	_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	h.want("a new channel", err, fault.Forbidden)
	h.advance(time.Second)
	_, err = other.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	h.want("another process, a second later", err, fault.Forbidden)
	h.restart()
	_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	h.want("after a restart", err, fault.Forbidden)

	all, err := h.service.Suspensions(h.ctx, h.officer("bob"))
	h.must(err)
	if len(all) != 1 || all[0] != s {
		t.Errorf("the list is %+v", all)
	}
	c := h.approved(resume)
	_, err = h.service.SuspendClient(h.ctx, h.officer("bob"), uri) // changes nothing, so the proposal stays
	h.must(err)
	_, err = h.execute(c)
	h.must(err)
	_, err = h.authenticate(card)
	h.must(err)
	_, err = h.propose("ada", resume)
	h.want("resuming what is not suspended", err, fault.Conflict)
	if all, err := h.service.Suspensions(h.ctx, h.officer("bob")); err != nil || len(all) != 0 {
		t.Errorf("the list is %+v (%v)", all, err)
	}
	h.proven(1)
}

// TestSuspendClientRefuses: what is no client, and security officers, who could otherwise
// be kept from resuming anything.
func TestSuspendClientRefuses(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	for _, uri := range []string{
		"", "spiffe://", "https://test/role/operator/one", h.officer("bob").Caller.ID, "spiffe://test/role/security-officer",
		"spiffe://test/" + strings.Repeat("a", 65), "spiffe://test/1/2/3/4/5/6/7/8", "spiffe://test/a b",
	} {
		_, err := h.service.SuspendClient(h.ctx, h.officer("ada"), uri)
		h.want("suspending "+uri, err, fault.InvalidInput)
	}
	for _, object := range []string{"clients/none", "clients/", "officers/ada"} {
		_, err := h.propose("ada", kms.ProposeInput{Operation: approval.ClientResume, Object: object})
		if code := fault.CodeOf(err); code != fault.NotFound && code != fault.InvalidInput {
			t.Errorf("resuming %q: %v", object, err)
		}
	}
}
