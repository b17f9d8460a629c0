package approval

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"cardkms/kms/fault"
)

// Decision is what an officer says to a proposal.
type Decision string

// The decisions.
const (
	Approve Decision = "approve"
	Reject  Decision = "reject"
)

// Approval is the signed decision of an officer, whatever it is.
type Approval struct {
	Officer   string    `json:"officer"`
	Decision  Decision  `json:"decision"`
	Time      time.Time `json:"time"`      // when the service took it; not signed
	Signature []byte    `json:"signature"` // 64 bytes
}

// Statement returns what an officer signs.
func Statement(d Decision, digest Digest) []byte {
	return []byte("cardkms-approval/1\n" + string(d) + "\n" + hex.EncodeToString(digest[:]) + "\n")
}

// State is how far a case is.
type State string

// The states. A case ends in one of the last four and never leaves it.
const (
	Open     State = "open"     // fewer than k officers have approved
	Approved State = "approved" // it can be executed now
	Executed State = "executed"
	Rejected State = "rejected"
	Expired  State = "expired"
	Void     State = "void" // the object changed
)

// Case is a proposal and what was decided about it.
type Case struct {
	Proposal  Proposal   `json:"proposal"`
	Approvals []Approval `json:"approvals,omitempty"`
	// State is Open, Executed or Rejected: the others follow from the time, the
	// officers and the object, and At computes them.
	State State     `json:"state"`
	By    string    `json:"by,omitempty"` // officer who executed or rejected
	Ended time.Time `json:"ended,omitzero"`
}

// ApprovalsMax bounds how many decisions a case holds.
const ApprovalsMax = 32

// Facts are what a case is judged by, as they are at one moment.
type Facts struct {
	Now      time.Time
	Version  int64 // of the object's row; 0: there is none
	Officers Officers
	Required int // k, by Policies.Required
}

// New returns the case of a new proposal of an officer.
func New(p Proposal, f Facts) (Case, error) {
	if err := p.Validate(); err != nil {
		return Case{}, err
	}
	if !f.Officers[p.Proposer].Serves(p.Issuer) {
		return Case{}, errNoOfficer
	}
	c := Case{Proposal: p, State: Open}
	return c, c.live(f)
}

var errNoOfficer = fault.New(fault.Forbidden, "you are no active officer for this issuer")

// live returns why nothing can be decided about the case any more, nil if it can.
func (c Case) live(f Facts) error {
	switch {
	case c.State != Open:
		return fault.New(fault.ApprovalVoid, "the proposal was "+string(c.State)+" already")
	case !f.Now.Before(c.Proposal.Expires):
		return fault.New(fault.ApprovalExpired, "the proposal has expired")
	case f.Version != c.Proposal.Expected:
		return fault.New(fault.ApprovalVoid, "the object changed after the proposal; propose anew")
	}
	return nil
}

// verify checks an officer's right to decide and the signature over exactly this
// proposal.
func (c Case) verify(a Approval, f Facts) error {
	o, ok := f.Officers[a.Officer]
	switch {
	case !ok || !o.Serves(c.Proposal.Issuer):
		return errNoOfficer
	case a.Decision == Approve && a.Officer == c.Proposal.Proposer:
		return fault.New(fault.Forbidden, "who proposes does not approve")
	case a.Decision != Approve && a.Decision != Reject:
		return fault.New(fault.InvalidInput, "an officer approves or rejects")
	case !a.Time.Before(c.Proposal.Expires):
		return fault.New(fault.ApprovalExpired, "the decision came after the proposal expired")
	}
	digest, err := c.Proposal.Digest()
	if err != nil {
		return err
	}
	if len(o.Public) != ed25519.PublicKeySize || !ed25519.Verify(o.Public, Statement(a.Decision, digest), a.Signature) {
		return fault.Proof()
	}
	return nil
}

// Decide returns the case after an officer's decision. One rejection ends it, and
// the proposer may reject too, to withdraw. An officer who approved may still
// reject.
func (c Case) Decide(a Approval, f Facts) (Case, error) {
	if err := c.live(f); err != nil {
		return c, err
	}
	if err := c.verify(a, f); err != nil {
		return c, err
	}
	if a.Decision == Approve && slices.ContainsFunc(c.Approvals, func(have Approval) bool { return have.Officer == a.Officer }) {
		return c, fault.New(fault.Conflict, "you have approved this already")
	}
	if len(c.Approvals) >= ApprovalsMax {
		return c, fault.New(fault.TooLarge, "there are too many decisions about this proposal")
	}
	c.Approvals = append(slices.Clone(c.Approvals), a)
	if a.Decision == Reject {
		c.State, c.By, c.Ended = Rejected, a.Officer, a.Time
	}
	return c, nil
}

// Counted returns how many approvals count now: of distinct officers with distinct
// keys, who are active, are not the proposer and signed exactly this proposal.
func (c Case) Counted(f Facts) int {
	names, keys := map[string]bool{}, map[string]bool{}
	for _, a := range c.Approvals {
		key := string(f.Officers[a.Officer].Public)
		if a.Decision != Approve || names[a.Officer] || keys[key] || c.verify(a, f) != nil {
			continue
		}
		names[a.Officer], keys[key] = true, true
	}
	return len(names)
}

// Ready returns nil if the proposal may be executed now. Every signature is
// verified again: an officer who was removed since does not count any more.
func (c Case) Ready(f Facts) error {
	if err := c.live(f); err != nil {
		return err
	}
	k := max(f.Required, KMin)
	if n := c.Counted(f); n < k {
		return fault.New(fault.ApprovalRequired, fmt.Sprintf("%d of %d approvals", n, k))
	}
	return nil
}

// Execute returns the case as executed by an officer, which the caller must keep
// in the transaction of the change: a proposal serves once.
func (c Case) Execute(by string, f Facts) (Case, error) {
	if !f.Officers[by].Serves(c.Proposal.Issuer) {
		return c, errNoOfficer
	}
	if err := c.Ready(f); err != nil {
		return c, err
	}
	c.State, c.By, c.Ended = Executed, by, f.Now
	return c, nil
}

// At returns the state of the case at this moment.
func (c Case) At(f Facts) State {
	switch err := c.Ready(f); {
	case c.State != Open:
		return c.State
	case err == nil:
		return Approved
	case fault.CodeOf(err) == fault.ApprovalExpired:
		return Expired
	case fault.CodeOf(err) == fault.ApprovalVoid:
		return Void
	}
	return Open
}
