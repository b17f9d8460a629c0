package kms_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// version returns a version of the key isd as officers see it.
func (h *harness) version(n int) key.Version {
	h.t.Helper()
	h.advance(1100 * time.Millisecond) // past the cache
	all, err := h.service.Keys(h.ctx, h.as(kms.SecurityOfficer), h.issuer)
	h.must(err)
	for _, v := range all {
		if v.ID.Name == "isd" && v.ID.Version == n {
			return v
		}
	}
	h.t.Fatalf("there is no version %d", n)
	return key.Version{}
}

func (h *harness) versionName(n int) string {
	return fmt.Sprintf("issuers/%s/keys/isd/versions/%d", h.issuer, n)
}

var createParams = map[string]string{
	"usage": "gp-scp03", "algorithm": "aes-256", "card_algorithm": "aes-128", "diversification": "kdf3", "kvn": "31", "cryptoperiod_days": "365",
}

// TestLifeOfAKey goes through a whole life, every step by two officers, with a
// card that is moved in the middle.
func TestLifeOfAKey(t *testing.T) {
	h := newHarness(t)
	o := h.officers()
	card := h.card(1)
	_, err := h.open(card, kvn)
	h.must(err)

	h.must(o.decide(approval.KeyCreate, h.versionName(2), createParams))
	if v := h.version(2); v.State != key.PreActivation || v.KVN != newKVN || v.Ends.Sub(v.Created) != 365*24*time.Hour || v.KCVs[key.Master].Value == "" {
		t.Errorf("created: %+v", v)
	}
	id, err := h.open(card, kvn)
	h.must(err)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("moving to a version that is not active", err, fault.Conflict)
	h.want("deactivating what was never active", o.decide(approval.KeyDeactivate, h.versionName(2), nil), fault.KeyState)
	h.want("undestroying what is not to be destroyed", o.decide(approval.KeyUndestroy, h.versionName(2), nil), fault.Conflict)
	h.want("planning to move what is not compromised", o.decide(approval.KeyPlanMove, h.versionName(2), nil), fault.KeyState)

	h.must(o.decide(approval.KeyActivate, h.versionName(2), nil))
	h.want("activating it again", o.decide(approval.KeyActivate, h.versionName(2), nil), fault.KeyState)
	h.want("deactivating what a card needs", o.decide(approval.KeyDeactivate, h.versionName(1), nil), fault.Conflict)
	third := map[string]string{"kvn": "32"}
	for k, v := range createParams {
		if k != "kvn" {
			third[k] = v
		}
	}
	h.must(o.decide(approval.KeyCreate, h.versionName(3), third))
	h.want("a second rotation beside the first", o.decide(approval.KeyActivate, h.versionName(3), nil), fault.Conflict)

	h.must(h.move(card))
	h.must(o.decide(approval.KeyDeactivate, h.versionName(1), nil))
	h.want("activating a deactivated version", o.decide(approval.KeyActivate, h.versionName(1), nil), fault.KeyState)

	h.want("destroying too soon", o.decide(approval.KeyDestroy, h.versionName(1), map[string]string{"days": "1"}), fault.InvalidInput)
	h.must(o.decide(approval.KeyDestroy, h.versionName(1), map[string]string{"days": "7"}))
	h.must(o.decide(approval.KeyUndestroy, h.versionName(1), nil))
	h.advance(8 * 24 * time.Hour)
	h.must(h.service.Tend(h.ctx))
	if v := h.version(1); v.State != key.Deactivated {
		t.Errorf("undestroyed and %s", v.State)
	}
	h.must(o.decide(approval.KeyDestroy, h.versionName(1), map[string]string{"days": "7"}))
	h.must(h.service.Tend(h.ctx))
	if v := h.version(1); v.State != key.Deactivated {
		t.Errorf("before its day it is %s", v.State)
	}
	h.advance(7*24*time.Hour + time.Second)
	h.must(h.service.Tend(h.ctx))
	if v := h.version(1); v.State != key.Destroyed || !v.DestroyAt.IsZero() {
		t.Errorf("after its day: %+v", v)
	}
	labels, err := h.token.Labels(h.ctx)
	h.must(err)
	for _, l := range labels {
		if l == h.versionName(1)+"#master" {
			t.Error("the token still holds the destroyed version")
		}
	}
	_, err = h.open(card, newKVN) // the others live
	h.must(err)
	if e := h.entryOf("key.destroyed"); e.Outcome != "ok" || e.Intent == nil {
		t.Errorf("the entry: %+v", e)
	}
}

// TestSuspendAndCompromise: one officer stops a version at once; only two let it
// go on, or plan how its cards are reached.
func TestSuspendAndCompromise(t *testing.T) {
	h := newHarness(t)
	o := h.officers()
	card := h.card(1)
	_, err := h.open(card, kvn)
	h.must(err)
	suspend := func(name string) error {
		_, err := h.service.SuspendKey(h.ctx, h.as(kms.SecurityOfficer), h.issuer, name, 1)
		return err
	}
	h.want("suspending nothing", suspend("none"), fault.NotFound)
	h.must(suspend("isd"))
	_, err = h.open(card, kvn)
	h.want("at once", err, fault.KeyState)
	h.want("suspending again", suspend("isd"), fault.KeyState)
	h.must(o.decide(approval.KeyActivate, h.versionName(1), nil))
	_, err = h.open(card, kvn)
	h.must(err)
	h.must(o.decide(approval.KeyCompromise, h.versionName(1), nil))
	_, err = h.open(card, kvn)
	h.want("a compromised version", err, fault.KeyState)
	h.want("activating it", o.decide(approval.KeyActivate, h.versionName(1), nil), fault.KeyState)
	h.must(o.decide(approval.KeyCreate, h.versionName(2), createParams))
	h.must(o.decide(approval.KeyActivate, h.versionName(2), nil))
	h.want("a move without a plan", h.move(card), fault.KeyState)
	h.must(o.decide(approval.KeyPlanMove, h.versionName(1), nil))
	h.must(h.move(card))
}

func TestCreateRefuses(t *testing.T) {
	h := newHarness(t)
	o := h.officers()
	with := func(name, value string) map[string]string {
		out := map[string]string{}
		for k, v := range createParams {
			out[k] = v
		}
		if out[name] = value; value == "" {
			delete(out, name)
		}
		return out
	}
	for name, tt := range map[string]struct {
		version int
		params  map[string]string
		want    fault.Code
	}{
		"the version that is there":   {1, createParams, fault.Conflict},
		"a version too far":           {3, createParams, fault.Conflict},
		"the KVN of another version":  {2, with("kvn", "30"), fault.Conflict},
		"KVN 00":                      {2, with("kvn", "00"), fault.InvalidInput},
		"no KVN":                      {2, with("kvn", ""), fault.InvalidInput},
		"another usage":               {2, with("usage", "card-update"), fault.Conflict},
		"no usage":                    {2, with("usage", ""), fault.InvalidInput},
		"an algorithm of no card":     {2, with("card_algorithm", "tdea-2key"), fault.InvalidInput},
		"no cryptoperiod":             {2, with("cryptoperiod_days", ""), fault.InvalidInput},
		"a cryptoperiod of a century": {2, with("cryptoperiod_days", "36500"), fault.InvalidInput},
		"a parameter too many":        {2, with("color", "red"), fault.InvalidInput},
		"a token that is none":        {2, with("token", "nowhere"), fault.InvalidInput},
		"a name that is none":         {2, with("token", "No/"), fault.InvalidInput},
	} {
		t.Run(name, func(t *testing.T) {
			if err := o.decide(approval.KeyCreate, h.versionName(tt.version), tt.params); fault.CodeOf(err) != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	other := "issuers/somebody-else/keys/isd/versions/2"
	if err := o.decide(approval.KeyCreate, other, createParams); err == nil || errors.Is(err, errTorn) {
		t.Errorf("a key of another issuer: %v", err)
	}
}

// TestAlarmsAreToldOnce at 90, 30 and 7 days and at the end.
func TestAlarmsAreToldOnce(t *testing.T) {
	h := newHarness(t)
	var alarms []string
	for day := range 370 {
		size := h.ledger.Size()
		h.must(h.service.Tend(h.ctx))
		entries, err := h.ledger.Entries(h.ctx, size, 10)
		h.must(err)
		for _, e := range entries {
			if e.Operation == "key.alarm" && e.Object == h.versionName(1) {
				alarms = append(alarms, fmt.Sprintf("%d:%s", day, e.Detail["alarm"]))
			}
		}
		h.advance(24 * time.Hour)
	}
	if got := fmt.Sprint(alarms); got != "[275:90 335:30 358:7 365:over]" {
		t.Errorf("alarms %s", got)
	}
	_, err := h.open(h.card(1), kvn)
	h.must(err) // a card of a key that is over is reached, to be moved
}

// TestAlarmLeavesProposalsGood: what the calendar does to a version is no change of
// it that officers would have to look at again.
func TestAlarmLeavesProposalsGood(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	h.advance(275*24*time.Hour - time.Minute)
	c := h.approved(kms.ProposeInput{Issuer: h.issuer, Operation: approval.KeyCompromise, Object: h.versionName(1)})
	size := h.ledger.Size()
	h.advance(2 * time.Minute)
	h.must(h.service.Tend(h.ctx))
	if h.ledger.Size() == size {
		t.Fatal("no alarm was told")
	}
	_, err := h.execute(c)
	h.must(err)
}

// board is three officers of the test, who decide together.
type board struct {
	h     *harness
	names []string
	keys  map[string]ed25519.PrivateKey
}

// officers enrols three officers of whom two must approve what the third proposes.
func (h *harness) officers() *board {
	h.t.Helper()
	b := &board{h: h, names: []string{"ada", "bob", "cyd"}, keys: map[string]ed25519.PrivateKey{}}
	var all []approval.Officer
	for _, n := range b.names {
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		h.must(err)
		b.keys[n] = priv
		all = append(all, approval.Officer{Name: n, Identity: b.as(n).Caller.ID, Public: pub, State: approval.Active})
	}
	h.must(h.service.EnrolFirst(h.ctx, "test", "", all, 2))
	return b
}

func (b *board) as(name string) kms.Request {
	r := b.h.as(kms.SecurityOfficer)
	r.Caller.ID = "spiffe://test/role/security-officer/" + name
	return r
}

// decide has the first officer propose and execute what the others approve, when no
// cache knows anything any more.
func (b *board) decide(operation, object string, params map[string]string) error {
	b.h.advance(1100 * time.Millisecond)
	return b.decideNow(operation, object, params)
}

func (b *board) decideNow(operation, object string, params map[string]string) error {
	c, err := b.h.service.Propose(b.h.ctx, b.as("ada"), kms.ProposeInput{
		Issuer: b.h.issuer, Operation: operation, Object: object, Params: params, Life: time.Hour,
	})
	if err != nil {
		return err
	}
	digest, err := c.Proposal.Digest()
	if err != nil {
		return err
	}
	for _, n := range b.names[1:] {
		in := kms.DecideInput{ID: c.Proposal.ID, Decision: approval.Approve, Signature: ed25519.Sign(b.keys[n], approval.Statement(approval.Approve, digest))}
		if _, err := b.h.service.Decide(b.h.ctx, b.as(n), in); err != nil {
			return err
		}
	}
	_, err = b.h.service.Execute(b.h.ctx, b.as("ada"), c.Proposal.ID)
	return err
}

// entryOf returns the newest entry of an operation that is an outcome.
func (h *harness) entryOf(operation string) (found audit.Entry) {
	h.t.Helper()
	entries, err := h.ledger.Entries(h.ctx, 0, 10_000)
	h.must(err)
	for _, e := range entries {
		if e.Operation == operation && e.Outcome != audit.OutcomePending {
			found = e
		}
	}
	return found
}

// TestNotDestroyedAlive: what is to be destroyed does not come to life before that.
func TestNotDestroyedAlive(t *testing.T) {
	h := newHarness(t)
	o := h.officers()
	h.must(o.decide(approval.KeyCreate, h.versionName(2), createParams))
	h.must(o.decide(approval.KeyDestroy, h.versionName(2), map[string]string{"days": "7"}))
	h.want("activating it", o.decide(approval.KeyActivate, h.versionName(2), nil), fault.Conflict)
	h.must(o.decide(approval.KeyUndestroy, h.versionName(2), nil))
	h.must(o.decide(approval.KeyActivate, h.versionName(2), nil))
	h.advance(8 * 24 * time.Hour)
	h.must(h.service.Tend(h.ctx))
	h.must(h.move(h.card(1)))

	h.must(o.decide(approval.KeyDeactivate, h.versionName(1), map[string]string{"exception": "test"}))
	h.must(o.decide(approval.KeyDestroy, h.versionName(1), map[string]string{"days": "7"}))
	h.must(o.decide(approval.KeyCompromise, h.versionName(1), nil))
	h.want("planning to use it", o.decide(approval.KeyPlanMove, h.versionName(1), nil), fault.Conflict)
}

// TestCreateReplacesNothing: objects that no row knows may be of a master that a
// restored database forgot.
func TestCreateReplacesNothing(t *testing.T) {
	h := newHarness(t)
	o := h.officers()
	label := h.versionName(2) + "#master"
	forgotten, err := h.token.Generate(h.ctx, label, key.AES256, derive.Static)
	h.must(err)
	h.want("a version that the token has", o.decide(approval.KeyCreate, h.versionName(2), createParams), fault.Conflict)
	h.must(o.decide(approval.KeyCreate, h.versionName(3), createParams))
	h.must(h.token.Check(h.ctx, forgotten))
}

// TestCreateTwiceAtOnce: of two approved proposals for one version, executed at
// once, one happens, and its row names the value that the token has.
func TestCreateTwiceAtOnce(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	in := kms.ProposeInput{Issuer: h.issuer, Operation: approval.KeyCreate, Object: h.versionName(2), Params: createParams}
	cases := []kms.Case{h.approved(in), h.approved(in)}
	failed := make(chan error, len(cases))
	for _, c := range cases {
		go func() { _, err := h.execute(c); failed <- err }()
	}
	bad := 0
	for range cases {
		if err := <-failed; err != nil {
			bad++
		}
	}
	if bad != 1 {
		t.Errorf("%d of two failed", bad)
	}
	h.must(h.token.Check(h.ctx, cardkey.Root(h.version(2), key.Master)))
}
