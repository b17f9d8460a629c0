package approval

import (
	"fmt"
	"strconv"

	"cardkms/kms/fault"
)

// Bounds of k, the number of approvals that an operation needs.
const (
	KMin = 2
	KMax = 16
)

// DefaultPolicy names the policy of operations that have none of their own.
const DefaultPolicy = "default"

// Policy says how many officers must approve an operation.
type Policy struct {
	Operation string `json:"operation"` // exact name, or DefaultPolicy
	K         int    `json:"k"`         // KMin to KMax; the proposer is not among them
}

// Check returns a fault.InvalidInput unless the policy can be.
func (p Policy) Check() error {
	if !validOperation(p.Operation) {
		return fault.New(fault.InvalidInput, "a policy is named by an operation or default")
	}
	if p.Operation == GlassBreak {
		return fault.New(fault.InvalidInput, "breaking the glass takes two approvals, always")
	}
	if p.K < KMin || p.K > KMax {
		return fault.New(fault.InvalidInput, fmt.Sprintf("a policy needs %d to %d approvals", KMin, KMax))
	}
	return nil
}

// Policies are k by the name of the policy. None of them takes k below KMin.
type Policies map[string]int

// k returns what an operation needs.
func (ps Policies) k(operation string) int {
	k, ok := ps[operation]
	if !ok {
		k = ps[DefaultPolicy]
	}
	return max(k, KMin)
}

func (ps Policies) greatest() int {
	k := KMin
	for _, n := range ps {
		k = max(k, n)
	}
	return k
}

// Required returns how many approvals a proposal needs. A change of policy needs
// what the changed policy asks for, before and after: nobody weakens a policy with
// fewer people than it names, nor sets one that cannot be met. Who may approve is
// changed by as many as the strictest policy asks for: else a few could enrol the
// rest; a restoration may take that back, so it needs as many. Two break the glass,
// whatever the policies say, because it lowers none of them.
func (ps Policies) Required(p Proposal) int {
	k := ps.k(p.Operation)
	switch p.Operation {
	case GlassBreak:
		return KMin
	case OfficerEnrol, OfficerRemove, LogRestore:
		return ps.greatest()
	case CeremonyOperation: // it makes keys and card profiles that serve at once
		return max(k, ps.k(KeyCreate), ps.k(KeyActivate), ps.k(ProfileRegister))
	case PolicySet:
	default:
		return k
	}
	if set, err := SetBy(p); err == nil {
		k = max(k, ps.k(set.Operation), set.K)
	}
	return k
}

// With returns the policies after one was set.
func (ps Policies) With(p Policy) Policies {
	out := Policies{p.Operation: p.K}
	for name, k := range ps {
		if name != p.Operation {
			out[name] = k
		}
	}
	return out
}

func parseK(s string) int {
	k, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(k) != s {
		return 0
	}
	return k
}
