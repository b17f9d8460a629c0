package approval_test

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
)

var start = time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC)

// keyOf makes the key of an officer of the tests.
func keyOf(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func officer(name string) approval.Officer {
	return approval.Officer{
		Name: name, Identity: "spiffe://example.com/role/security-officer/" + name,
		Public: keyOf(name).Public().(ed25519.PublicKey), State: approval.Active,
	}
}

func officers(names ...string) approval.Officers {
	all := approval.Officers{}
	for _, n := range names {
		all[n] = officer(n)
	}
	return all
}

// facts are those of the example's time and object.
func facts(names ...string) approval.Facts {
	return approval.Facts{Now: start.Add(time.Hour), Version: 7, Officers: officers(names...), Required: 2}
}

func sign(p approval.Proposal, name string, d approval.Decision) approval.Approval {
	digest, err := p.Digest()
	if err != nil {
		panic(err)
	}
	return approval.Approval{Officer: name, Decision: d, Time: start.Add(time.Minute), Signature: ed25519.Sign(keyOf(name), approval.Statement(d, digest))}
}

// approved is the example with these approvals, put there without any check.
func approved(names ...string) approval.Case {
	c := approval.Case{Proposal: example(), State: approval.Open}
	for _, n := range names {
		c.Approvals = append(c.Approvals, sign(c.Proposal, n, approval.Approve))
	}
	return c
}

func want(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != code {
		t.Errorf("%s: %v (%s), want %s", what, err, got, code)
	}
}

// TestEveryField: each field is in the encoding and comes back; each bad value is
// refused.
func TestEveryField(t *testing.T) {
	base, _ := example().Encode()
	for name, change := range map[string]func(*approval.Proposal){
		"id":        func(p *approval.Proposal) { p.ID = strings.Repeat("0", 32) },
		"issuer":    func(p *approval.Proposal) { p.Issuer = "" },
		"operation": func(p *approval.Proposal) { p.Operation = "key.destroy" },
		"object":    func(p *approval.Proposal) { p.Object = "x" },
		"expected":  func(p *approval.Proposal) { p.Expected = 0 },
		"proposer":  func(p *approval.Proposal) { p.Proposer = "bob" },
		"created":   func(p *approval.Proposal) { p.Created = p.Created.Add(time.Second) },
		"expires":   func(p *approval.Proposal) { p.Expires = p.Created.Add(approval.LifeMax) },
		"no params": func(p *approval.Proposal) { p.Params = nil },
		"params":    func(p *approval.Proposal) { p.Params = map[string]string{"b": "-", "a": "1:/+"} },
	} {
		p := example()
		change(&p)
		encoding, err := p.Encode()
		if err != nil || string(encoding) == string(base) {
			t.Errorf("%s: %v, not in the encoding", name, err)
			continue
		}
		again, err := approval.Parse(encoding)
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for name, change := range map[string]func(*approval.Proposal){
		"short id":       func(p *approval.Proposal) { p.ID = "00" },
		"issuer":         func(p *approval.Proposal) { p.Issuer = "A" },
		"issuer none":    func(p *approval.Proposal) { p.Issuer = "-" },
		"operation":      func(p *approval.Proposal) { p.Operation = "a..b" },
		"long operation": func(p *approval.Proposal) { p.Operation = strings.Repeat("a", 65) },
		"object":         func(p *approval.Proposal) { p.Object = "a/../b" },
		"object none":    func(p *approval.Proposal) { p.Object = "-" },
		"line break":     func(p *approval.Proposal) { p.Object = "a\nexpected 0" },
		"expected":       func(p *approval.Proposal) { p.Expected = -1 },
		"proposer":       func(p *approval.Proposal) { p.Proposer = "" },
		"fraction":       func(p *approval.Proposal) { p.Created = p.Created.Add(time.Millisecond) },
		"no life":        func(p *approval.Proposal) { p.Expires = p.Created },
		"long life":      func(p *approval.Proposal) { p.Expires = p.Created.Add(approval.LifeMax + time.Second) },
		"year": func(p *approval.Proposal) {
			p.Created, p.Expires = time.Time{}.AddDate(10000, 0, 0), time.Time{}.AddDate(10000, 0, 1)
		},
		"key":         func(p *approval.Proposal) { p.Params = map[string]string{"K": "1"} },
		"value":       func(p *approval.Proposal) { p.Params = map[string]string{"k": "a b"} },
		"empty value": func(p *approval.Proposal) { p.Params = map[string]string{"k": ""} },
		"too long":    func(p *approval.Proposal) { p.Params = many(9, 256) },
		"too many":    func(p *approval.Proposal) { p.Params = many(17, 1) },
	} {
		p := example()
		change(&p)
		if encoding, err := p.Encode(); err == nil {
			t.Errorf("%s is accepted: %q", name, encoding)
		}
	}
}

func many(n, size int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprintf("k%d", i)] = strings.Repeat("v", size)
	}
	return out
}

// FuzzParse: nothing but an encoding is accepted.
func FuzzParse(f *testing.F) {
	encoding, _ := example().Encode()
	f.Add(encoding)
	none := example()
	none.Issuer, none.Params = "", nil
	encoding, _ = none.Encode()
	f.Add(encoding)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := approval.Parse(b)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || string(again) != string(b) {
			t.Errorf("%q parses and is encoded as %q, %v", b, again, err)
		}
	})
}

// TestAttacks is what somebody with the database, or one officer, might put into a
// case. None of it may be executed.
func TestAttacks(t *testing.T) {
	other := example()
	other.ID = strings.Repeat("1", 32)
	forged := sign(example(), "eve", approval.Approve)
	forged.Officer = "bob"
	for _, c := range []struct {
		name   string
		change func(*approval.Case, *approval.Facts)
		code   fault.Code
	}{
		{"honest", func(*approval.Case, *approval.Facts) {}, fault.OK},
		{"one approval", func(c *approval.Case, _ *approval.Facts) { c.Approvals = c.Approvals[:1] }, fault.ApprovalRequired},
		{"no approval", func(c *approval.Case, f *approval.Facts) { c.Approvals, f.Required = nil, 0 }, fault.ApprovalRequired},
		{"k of one", func(c *approval.Case, f *approval.Facts) { c.Approvals, f.Required = c.Approvals[:1], 1 }, fault.ApprovalRequired},
		{"the same twice", func(c *approval.Case, _ *approval.Facts) { c.Approvals[1] = c.Approvals[0] }, fault.ApprovalRequired},
		{"two names, one key", func(c *approval.Case, f *approval.Facts) {
			o := f.Officers["cyd"]
			o.Public = f.Officers["bob"].Public
			f.Officers["cyd"] = o
			c.Approvals[1].Signature = c.Approvals[0].Signature
		}, fault.ApprovalRequired},
		{"the proposer", func(c *approval.Case, _ *approval.Facts) { c.Approvals[1] = sign(c.Proposal, "ada", approval.Approve) }, fault.ApprovalRequired},
		{"forged", func(c *approval.Case, _ *approval.Facts) { c.Approvals[0] = forged }, fault.ApprovalRequired},
		{"self-made officer", func(c *approval.Case, _ *approval.Facts) { c.Approvals[0] = sign(c.Proposal, "eve", approval.Approve) }, fault.ApprovalRequired},
		{"of another proposal", func(c *approval.Case, _ *approval.Facts) { c.Approvals[0] = sign(other, "bob", approval.Approve) }, fault.ApprovalRequired},
		{"swapped", func(c *approval.Case, _ *approval.Facts) {
			c.Approvals[0].Signature, c.Approvals[1].Signature = c.Approvals[1].Signature, c.Approvals[0].Signature
		}, fault.ApprovalRequired},
		{"a rejection as approval", func(c *approval.Case, _ *approval.Facts) {
			c.Approvals[0].Signature = sign(c.Proposal, "bob", approval.Reject).Signature
		}, fault.ApprovalRequired},
		{"proposal changed", func(c *approval.Case, _ *approval.Facts) { c.Proposal.Params["reason"] = "other" }, fault.ApprovalRequired},
		{"removed officer", func(_ *approval.Case, f *approval.Facts) {
			o := f.Officers["bob"]
			o.State = approval.Removed
			f.Officers["bob"] = o
		}, fault.ApprovalRequired},
		{"officer of another issuer", func(_ *approval.Case, f *approval.Facts) {
			o := f.Officers["bob"]
			o.Issuer = "globex"
			f.Officers["bob"] = o
		}, fault.ApprovalRequired},
		{"k was raised", func(_ *approval.Case, f *approval.Facts) { f.Required = 3 }, fault.ApprovalRequired},
		{"expired", func(c *approval.Case, f *approval.Facts) { f.Now = c.Proposal.Expires }, fault.ApprovalExpired},
		{"approved after expiry", func(c *approval.Case, _ *approval.Facts) { c.Approvals[0].Time = c.Proposal.Expires }, fault.ApprovalRequired},
		{"object changed", func(_ *approval.Case, f *approval.Facts) { f.Version = 8 }, fault.ApprovalVoid},
		{"object put back", func(_ *approval.Case, f *approval.Facts) { f.Version = 6 }, fault.ApprovalVoid},
		{"replayed", func(c *approval.Case, _ *approval.Facts) { c.State = approval.Executed }, fault.ApprovalVoid},
		{"rejected", func(c *approval.Case, _ *approval.Facts) { c.State = approval.Rejected }, fault.ApprovalVoid},
	} {
		f, cs := facts("ada", "bob", "cyd"), approved("bob", "cyd")
		cs.Proposal.Params = maps.Clone(cs.Proposal.Params)
		c.change(&cs, &f)
		_, err := cs.Execute("ada", f)
		want(t, c.name, err, c.code)
	}
	_, err := approved("bob", "cyd").Execute("eve", facts("ada", "bob", "cyd"))
	want(t, "executed by nobody", err, fault.Forbidden)
}

func TestDecide(t *testing.T) {
	f := facts("ada", "bob", "cyd")
	c, err := approval.New(example(), f)
	want(t, "a proposal", err, fault.OK)
	for _, s := range []struct {
		name string
		a    approval.Approval
		code fault.Code
		then approval.State
	}{
		{"proposer", sign(c.Proposal, "ada", approval.Approve), fault.Forbidden, approval.Open},
		{"stranger", sign(c.Proposal, "eve", approval.Approve), fault.Forbidden, approval.Open},
		{"no signature", approval.Approval{Officer: "bob", Decision: approval.Approve, Time: start}, fault.ProofFailed, approval.Open},
		{"no decision", sign(c.Proposal, "bob", "maybe"), fault.InvalidInput, approval.Open},
		{"first", sign(c.Proposal, "bob", approval.Approve), fault.OK, approval.Open},
		{"twice", sign(c.Proposal, "bob", approval.Approve), fault.Conflict, approval.Open},
		{"second", sign(c.Proposal, "cyd", approval.Approve), fault.OK, approval.Approved},
		{"withdrawn", sign(c.Proposal, "ada", approval.Reject), fault.OK, approval.Rejected},
		{"after the end", sign(c.Proposal, "cyd", approval.Approve), fault.ApprovalVoid, approval.Rejected},
	} {
		next, err := c.Decide(s.a, f)
		want(t, s.name, err, s.code)
		if c = next; c.At(f) != s.then {
			t.Errorf("%s: the case is %s, want %s", s.name, c.At(f), s.then)
		}
	}
	c = approved("bob")
	f.Now = c.Proposal.Expires
	if c.At(f) != approval.Expired {
		t.Errorf("after its time the case is %s", c.At(f))
	}
	_, err = c.Decide(sign(c.Proposal, "cyd", approval.Approve), f)
	want(t, "after expiry", err, fault.ApprovalExpired)
	f = facts("ada", "bob", "cyd")
	f.Version = 0
	if c.At(f) != approval.Void {
		t.Errorf("without its object the case is %s", c.At(f))
	}
	_, err = approval.New(example(), facts("bob"))
	want(t, "proposed by nobody", err, fault.Forbidden)
}

func TestOfficers(t *testing.T) {
	all := officers("ada", "bob", "cyd")
	same := officer("dan")
	same.Public = officer("bob").Public
	_, err := all.With(same)
	want(t, "one key, two names", err, fault.Conflict)
	same = officer("dan")
	same.Identity = officer("bob").Identity
	_, err = all.With(same)
	want(t, "one identity, two names", err, fault.Conflict)
	_, err = all.Without("bob", nil)
	want(t, "one of three", err, fault.Conflict)
	all, err = all.With(officer("dan"))
	want(t, "a fourth", err, fault.OK)
	_, err = all.Without("bob", approval.Policies{"x": 3})
	want(t, "one of four under k=3", err, fault.Conflict)
	all, err = all.Without("bob", nil)
	want(t, "one of four", err, fault.OK)
	_, err = all.Without("bob", nil)
	want(t, "again", err, fault.Conflict)
	_, err = all.With(officer("bob"))
	want(t, "a name again", err, fault.Conflict)
	for _, bad := range []func(*approval.Officer){
		func(o *approval.Officer) { o.Name = "Eve" },
		func(o *approval.Officer) { o.Identity = "https://x/y" },
		func(o *approval.Officer) { o.Public = o.Public[1:] },
		func(o *approval.Officer) { o.Issuer = "-" },
		func(o *approval.Officer) { o.State = "" },
	} {
		o := officer("eve")
		bad(&o)
		want(t, "bad officer", o.Check(), fault.InvalidInput)
	}
	first := func(k int, names ...string) error {
		var list []approval.Officer
		for _, n := range names {
			list = append(list, officer(n))
		}
		_, err := approval.First(list, k)
		return err
	}
	want(t, "k+1", first(2, "ada", "bob", "cyd"), fault.OK)
	want(t, "k", first(2, "ada", "bob"), fault.InvalidInput)
	want(t, "k=1", first(1, "ada", "bob", "cyd"), fault.InvalidInput)
	want(t, "k=0", first(0, "ada", "bob", "cyd"), fault.InvalidInput)
	want(t, "one twice", first(2, "ada", "bob", "bob"), fault.Conflict)
}

func TestPolicies(t *testing.T) {
	ps := approval.Policies{"default": 3, "key.destroy": 4, "weak": 1}
	set := func(object, k string) approval.Proposal {
		return approval.Proposal{Operation: approval.PolicySet, Object: object, Params: map[string]string{"k": k}}
	}
	for _, c := range []struct {
		p  approval.Proposal
		ps approval.Policies
		k  int
	}{
		{approval.Proposal{Operation: "key.destroy"}, ps, 4},
		{approval.Proposal{Operation: "key.create"}, ps, 3},
		{approval.Proposal{Operation: "weak"}, ps, 2},
		{approval.Proposal{Operation: "x"}, nil, 2},
		{set("policies/key.destroy", "2"), ps, 4}, // weakening needs what is weakened
		{set("policies/key.create", "5"), ps, 5},  // strengthening needs what it asks for
		{set("policies/policy.set", "2"), ps, 3},
	} {
		if got := c.ps.Required(c.p); got != c.k {
			t.Errorf("%s of %s needs %d, want %d", c.p.Operation, c.p.Object, got, c.k)
		}
	}
	for _, k := range []string{"0", "1", "-2", "02", "17", "", "2.0"} {
		if _, err := approval.SetBy(set("policies/default", k)); err == nil {
			t.Errorf("k=%q is accepted", k)
		}
	}
}

func BenchmarkApprovals(b *testing.B) {
	c, f := approved("bob", "cyd"), facts("ada", "bob", "cyd")
	for b.Loop() {
		if c.Counted(f) != 2 {
			b.Fatal("they do not count")
		}
	}
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "verified/s")
}
