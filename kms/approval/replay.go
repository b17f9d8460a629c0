package approval

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"cardkms/kms/fault"
)

// The words by which the entries of dual control are known.
const (
	opInit    = "officer.init"
	opPropose = "approval.propose"
	opApprove = "approval.approve"
	opReject  = "approval.reject"

	outcomeOK       = "ok"
	proposalsPrefix = "proposals/"
)

// Record is what a Replay needs of an audit entry.
type Record struct {
	Sequence  int64
	Time      time.Time
	Actor     string
	Issuer    string
	Operation string
	Object    string
	Outcome   string
	Detail    map[string]string
}

// Concerns reports whether a Replay needs the entries of an operation.
func Concerns(operation string) bool {
	switch operation {
	case opInit, opLoad, opProfile, opDestroyed, LogRestore:
		return true
	}
	return strings.HasPrefix(operation, "approval.") || strings.HasPrefix(operation, "ceremony.") || slices.Contains(controlled, operation)
}

// Unproven is an execution that the entries before it do not allow.
type Unproven struct {
	Sequence int64
	Reason   string
}

// Error names the entry.
func (u *Unproven) Error() string {
	return fmt.Sprintf("approval: entry %d: %s", u.Sequence, u.Reason)
}

// clockSlack is how much later than its check the entry of an execution, or the
// service's note of a decision, may be: the entry waits for its transaction.
const clockSlack = time.Minute

// Replay judges every execution, ceremony and restoration in a log by the entries before
// it, without the service: it verifies each signature under the key with which its officer was
// enrolled. It trusts that the entries are those of the log, and knows no versions
// of objects; that a changed object makes a proposal void is the service's word.
type Replay struct {
	officers Officers
	policies Policies
	glass    Glass
	cases    map[string]Case

	ceremonies map[string]ceremony  // by the digest of the file
	ends       map[string]time.Time // when the objects of a key version are to go

	Executed int // executions that are proven
	Signed   int // ceremonies and restorations that are
	Unproven []Unproven
}

// UnprovenMax bounds how many unproven executions a Replay keeps.
const UnprovenMax = 1000

// Add takes the next entry of the log. The log is read from its first entry.
func (r *Replay) Add(e Record) {
	if e.Outcome != outcomeOK || !Concerns(e.Operation) {
		return
	}
	if r.cases == nil {
		r.officers, r.policies, r.cases = Officers{}, Policies{}, map[string]Case{}
		r.ceremonies, r.ends = map[string]ceremony{}, map[string]time.Time{}
	}
	if err := r.judge(e); err != nil && len(r.Unproven) < UnprovenMax {
		r.Unproven = append(r.Unproven, Unproven{e.Sequence, e.Operation + ": " + err.Error()})
	}
}

// judge takes an entry that something happened, and says why it should not have.
func (r *Replay) judge(e Record) error {
	switch e.Operation {
	case opInit:
		return r.first(e)
	case opPropose:
		r.propose(e)
	case opApprove:
		r.decide(e, Approve)
	case opReject:
		r.decide(e, Reject)
	case opBegin:
		return r.begin(e)
	case opEnd, opAbandon:
		r.end(e)
	case opLoad, opProfile, opKEK, opKEKGone, opToken:
		return r.within(e)
	case opDestroyed:
		return r.destroyed(e)
	case LogRestore:
		return r.restored(e)
	}
	if slices.Contains(controlled, e.Operation) {
		return r.execute(e)
	}
	return nil
}

func (r *Replay) first(e Record) error {
	if len(r.officers) > 0 {
		return fault.New(fault.Conflict, "there were officers already")
	}
	officers, k, err := firstOf(e.Detail)
	if err != nil {
		return err
	}
	r.officers, r.policies = officers, Policies{DefaultPolicy: k}
	if id := e.Detail["ceremony"]; id != "" {
		return r.madeBy(id)
	}
	return nil // an auditor compares the names with the minutes
}

// propose keeps a proposal. What is no proposal of its officer proves nothing, and
// the first of an id counts.
func (r *Replay) propose(e Record) {
	p, err := proposedBy(e.Detail)
	if err != nil || e.Object != proposalsPrefix+p.ID || e.Actor != r.officers[p.Proposer].Identity {
		return
	}
	if _, ok := r.cases[p.ID]; ok {
		return
	}
	if c, err := New(p, r.facts(p, e)); err == nil {
		r.cases[p.ID] = c
	}
}

// decide keeps a decision that verifies. One that does not proves nothing.
func (r *Replay) decide(e Record, d Decision) {
	id := strings.TrimPrefix(e.Object, proposalsPrefix)
	c, ok := r.cases[id]
	signature, err := base64.RawURLEncoding.Strict().DecodeString(e.Detail["signature"])
	if !ok || err != nil || e.Actor != r.officers[e.Detail["officer"]].Identity {
		return
	}
	f := r.facts(c.Proposal, e)
	a := Approval{Officer: e.Detail["officer"], Decision: d, Time: f.Now, Signature: signature}
	if c, err = c.Decide(a, f); err == nil {
		r.cases[id] = c
	}
}

func (r *Replay) execute(e Record) error {
	c, ok := r.cases[e.Detail["proposal"]]
	p := c.Proposal
	if !ok {
		return fault.New(fault.ApprovalRequired, "no proposal allows it")
	}
	if p.Operation != e.Operation || p.Object != e.Object || p.Issuer != e.Issuer {
		return fault.New(fault.ApprovalRequired, "the proposal is about something else")
	}
	by := e.Detail["officer"]
	if e.Actor != r.officers[by].Identity {
		return fault.New(fault.Forbidden, "the officer is not the actor")
	}
	c, err := c.Execute(by, r.facts(p, e))
	if err != nil {
		return err
	}
	r.cases[p.ID] = c
	if err := r.apply(p, e.Time); err != nil {
		return err
	}
	r.Executed++
	return nil
}

// facts are what the entry's proposal is judged by.
func (r *Replay) facts(p Proposal, e Record) Facts {
	now := e.Time.Add(-clockSlack)
	return Facts{Now: now, Version: p.Expected, Officers: r.officers.Acting(p.Operation, r.glass, now), Required: r.policies.Required(p)}
}

// apply changes who may approve, how many must, and what is to be destroyed.
func (r *Replay) apply(p Proposal, at time.Time) error {
	switch p.Operation {
	case GlassBreak:
		life, err := BrokenBy(p)
		r.glass.Until = at.Add(life)
		return err
	case OfficerEnrol:
		o, err := EnrolledBy(p)
		if err != nil {
			return err
		}
		r.officers, err = r.officers.With(o)
		return err
	case OfficerRemove:
		name, err := RemovedBy(p)
		if err != nil {
			return err
		}
		r.officers, err = r.officers.Without(name, r.policies)
		return err
	case PolicySet:
		set, err := SetBy(p)
		if err != nil {
			return err
		}
		r.policies = r.policies.With(set)
	case KeyDestroy:
		wait, err := DestroyedAfter(p)
		r.ends[p.Object] = at.Add(wait)
		return err
	case ProfileRegister:
		return RegisteredBy(p)
	case ProfileWithdraw:
		return WithdrawnBy(p)
	case KeyAllowLegacy:
		_, err := LegacyUntil(p)
		return err
	case KeyUndestroy:
		delete(r.ends, p.Object)
	}
	return nil
}
