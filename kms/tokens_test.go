package kms_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/report"
	"cardkms/softhsm/testtoken"
)

// TestKeyInAnotherToken: officers make a version in a token that they name; it lives and
// is destroyed there and nowhere else, and what tells of it names the token.
func TestKeyInAnotherToken(t *testing.T) {
	nss := testtoken.NSS(t)
	h := newHarness(t, func(h *harness) { h.further = map[string]kms.Holder{"away": nil, "nss": nss} })
	o := h.officers()
	with := func(token string) map[string]string {
		params := maps.Clone(createParams)
		params["token"] = token
		return params
	}
	h.want("a token that is away", o.decide(approval.KeyCreate, h.versionName(2), with("away")), fault.TokenUnavailable)
	h.must(o.decide(approval.KeyCreate, h.versionName(2), with("nss")))
	v := h.version(2)
	label := cardkey.Root(v, key.Master).Label
	held := func(in kms.Holder) bool {
		labels, err := in.Labels(h.ctx)
		h.must(err)
		return slices.Contains(labels, label)
	}
	if v.Token != "nss" || cardkey.Root(v, key.Master).Token != "nss" || !held(nss) || held(h.token) {
		t.Errorf("%+v is in NSS: %v, in SoftHSM2: %v", v, held(nss), held(h.token))
	}

	d, err := h.report(report.Inventory, h.clock().Add(-time.Hour), h.clock())
	h.must(err)
	inv := d.(*report.InventoryReport)
	i := slices.IndexFunc(inv.Keys, func(k report.Key) bool { return k.ID == v.ID })
	if i < 0 || inv.Keys[i].Held != report.Present || !strings.Contains(inv.Tokens["nss"], "NSS") || inv.Tokens["away"] == "" || !strings.Contains(inv.Text(), "nss") {
		t.Errorf("the inventory: %s", inv.Text())
	}

	states := h.service.Health(h.ctx).Tokens
	if len(states) != 2 || states[0].Name != "away" || fault.CodeOf(states[0].Err) != fault.TokenUnavailable || states[1].Err != nil {
		t.Errorf("the tokens are %+v", states)
	}
	h.must(h.service.Health(h.ctx).Err)

	h.must(o.decide(approval.KeyActivate, h.versionName(2), nil))
	card := h.card(1)
	id, err := h.open(card, kvn)
	h.must(err)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("moving a card across tokens", err, fault.TokenUnable)
	h.must(o.decide(approval.KeyDeactivate, h.versionName(2), nil))

	h.must(o.decide(approval.KeyDestroy, h.versionName(2), map[string]string{"days": "7"}))
	h.advance(8 * 24 * time.Hour)
	h.further["nss"] = nil
	if err := h.service.Tend(h.ctx); fault.CodeOf(err) != fault.TokenUnavailable || h.version(2).Destroying {
		t.Errorf("destroying while the token is away: %v, %+v", err, h.version(2))
	}
	h.further["nss"] = nss
	h.must(h.service.Tend(h.ctx))
	if e := h.entryOf("key.destroyed"); held(nss) || h.version(2).State != key.Destroyed || e.Detail["token"] != "nss" {
		t.Errorf("after its day: %+v, the entry %+v", h.version(2), e)
	}
}
