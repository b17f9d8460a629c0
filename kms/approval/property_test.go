package approval_test

import (
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cardkms/kms/approval"
)

var names = []string{"ada", "bob", "cyd", "dan", "eve"}

// TestNeverWithFewer interleaves approvals, removals, policies, time and
// executions in any order. Whatever happens, an execution has at least k approvals
// of distinct officers who are active at that moment and none of whom proposed, and
// happens once.
func TestNeverWithFewer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := facts(names...)
		c, err := approval.New(example(), f)
		if err != nil {
			t.Fatal(err)
		}
		approvers, executed := map[string]bool{}, 0
		name := rapid.SampledFrom(append(names, "mallory"))
		t.Repeat(map[string]func(*rapid.T){
			"approve": func(t *rapid.T) {
				n := name.Draw(t, "who")
				a := sign(c.Proposal, n, approval.Approve)
				if rapid.Bool().Draw(t, "forge") {
					a.Signature[3] ^= 1
				} else if f.Officers[n].State == approval.Active && n != "ada" && f.Now.Before(c.Proposal.Expires) && f.Version == 7 && executed == 0 {
					approvers[n] = true
				}
				c, _ = c.Decide(a, f)
			},
			"remove": func(t *rapid.T) {
				if after, err := f.Officers.Without(name.Draw(t, "who"), approval.Policies{}); err == nil {
					f.Officers = after
				}
			},
			"set k":  func(t *rapid.T) { f.Required = rapid.IntRange(-1, 4).Draw(t, "k") },
			"wait":   func(t *rapid.T) { f.Now = f.Now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "hours")) * time.Hour) },
			"change": func(t *rapid.T) { f.Version = rapid.SampledFrom([]int64{6, 7, 7, 7, 8}).Draw(t, "version") },
			"execute": func(t *rapid.T) {
				next, err := c.Execute(name.Draw(t, "who"), f)
				if err != nil {
					return
				}
				c, executed = next, executed+1
				active := 0
				for n := range approvers {
					if f.Officers[n].State == approval.Active && n != c.Proposal.Proposer {
						active++
					}
				}
				if active < max(2, f.Required) || executed > 1 || f.Version != 7 || !f.Now.Before(c.Proposal.Expires) {
					t.Fatalf("execution %d with %d approvals of active officers, k is %d", executed, active, f.Required)
				}
			},
		})
	})
}

// TestKIsNeverBelowTwo sets policies in any order.
func TestKIsNeverBelowTwo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := approval.Policies{}
		operations := rapid.SampledFrom([]string{"default", "key.destroy", approval.PolicySet})
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			op, k := operations.Draw(t, "operation"), rapid.IntRange(-3, 20).Draw(t, "k")
			p := example()
			p.Issuer, p.Operation, p.Object, p.Params = "", approval.PolicySet, "policies/"+op, map[string]string{"k": strconv.Itoa(k)}
			before := ps.Required(approval.Proposal{Operation: op})
			set, err := approval.SetBy(p)
			if err != nil {
				continue
			}
			if need := ps.Required(p); need < before || need < set.K {
				t.Fatalf("changing %s from %d to %d needs %d", op, before, set.K, need)
			}
			ps = ps.With(set)
		}
		if k := ps.Required(approval.Proposal{Operation: operations.Draw(t, "operation")}); k < 2 {
			t.Fatalf("k is %d", k)
		}
	})
}

// TestEncodings: parse(encode(x)) = x for any proposal.
func TestEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := approval.Proposal{
			ID:        rapid.StringMatching(`[0-9a-f]{32}`).Draw(t, "id"),
			Issuer:    rapid.StringMatching(`([a-z][a-z0-9-]{0,62})?`).Draw(t, "issuer"),
			Operation: rapid.StringMatching(`[a-z][a-z0-9-]{0,9}(\.[a-z]{1,9}){0,2}`).Draw(t, "operation"),
			Object:    rapid.StringMatching(`[A-Za-z0-9_-]{2,9}(/[A-Za-z0-9_-]{1,9}){0,4}`).Draw(t, "object"),
			Expected:  rapid.Int64Min(0).Draw(t, "expected"),
			Proposer:  rapid.StringMatching(`[a-z][a-z0-9._-]{0,62}`).Draw(t, "proposer"),
			Created:   time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "created"), 0).UTC(),
			Params:    rapid.MapOfN(rapid.StringMatching(`[a-z][a-z0-9_]{0,31}`), rapid.StringMatching(`[A-Za-z0-9._:/+-]{1,40}`), 1, 8).Draw(t, "params"),
		}
		p.Expires = p.Created.Add(time.Duration(rapid.Int64Range(1, 7*24*3600).Draw(t, "life")) * time.Second)
		encoding, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := approval.Parse(encoding)
		if err != nil {
			t.Fatalf("%q: %v", encoding, err)
		}
		if twice, _ := again.Encode(); string(twice) != string(encoding) {
			t.Fatalf("%q is encoded as %q", encoding, twice)
		}
	})
}
