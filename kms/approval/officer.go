package approval

import (
	"bytes"
	"crypto/ed25519"

	"cardkms/kms/fault"
)

// OfficerState says whether an officer may act.
type OfficerState string

// The states of an officer. Nobody leaves Removed: a name in the log means one
// person for ever.
const (
	Active  OfficerState = "active"
	Sealed  OfficerState = "sealed" // acts only while the glass is broken; see Glass
	Removed OfficerState = "removed"
)

// Officer is a security officer who takes part in dual control.
type Officer struct {
	Name     string            `json:"name"`
	Identity string            `json:"identity"`         // SPIFFE URI of the client certificate
	Public   ed25519.PublicKey `json:"public"`           // 32 bytes
	Issuer   string            `json:"issuer,omitempty"` // empty: every issuer
	State    OfficerState      `json:"state"`
}

// OfficersMax bounds how many officers there are, removed ones included.
const OfficersMax = 256

// Check returns a fault.InvalidInput if the officer cannot be one.
func (o Officer) Check() error {
	switch {
	case !validOfficer(o.Name):
		return fault.New(fault.InvalidInput, "an officer's name starts with a letter and has at most 63 of a-z 0-9 . - _")
	case !validIdentity(o.Identity) || len(o.Identity) > 128:
		return fault.New(fault.InvalidInput, "an officer's identity is a SPIFFE URI of at most 128 characters, spiffe://DOMAIN/role/security-officer/NAME")
	case len(o.Public) != ed25519.PublicKeySize:
		return fault.New(fault.InvalidInput, "an officer's public key is an Ed25519 key of 32 bytes")
	case o.Issuer != "" && !validIssuer(o.Issuer):
		return fault.New(fault.InvalidInput, "an officer's issuer is the name of one, or none")
	case o.State != Active && o.State != Sealed && o.State != Removed:
		return fault.New(fault.InvalidInput, "an officer is active, sealed or removed")
	}
	return nil
}

// Serves reports whether the officer may act on proposals of an issuer; empty
// stands for those that concern every issuer.
func (o Officer) Serves(issuer string) bool {
	return o.State == Active && (o.Issuer == "" || o.Issuer == issuer)
}

// Officers are all officers, by name.
type Officers map[string]Officer

// With returns the officers and one more. One person has one name, one identity
// and one key, for ever: else somebody could approve twice.
func (all Officers) With(o Officer) (Officers, error) {
	if err := o.Check(); err != nil {
		return all, err
	}
	if len(all) >= OfficersMax {
		return all, fault.New(fault.TooLarge, "there are too many officers")
	}
	out := Officers{o.Name: o}
	for name, have := range all {
		if name == o.Name || have.Identity == o.Identity || bytes.Equal(have.Public, o.Public) {
			return all, fault.New(fault.Conflict, "an officer has, or had, this name, identity or key")
		}
		out[name] = have
	}
	return out, nil
}

// Without returns the officers after one was removed. Enough of those who serve
// every issuer must be left to propose and to approve anything: k approvers of the
// strictest policy, and a proposer.
func (all Officers) Without(name string, ps Policies) (Officers, error) {
	gone, ok := all[name]
	if !ok || gone.State == Removed {
		return all, fault.New(fault.Conflict, "there is no officer of this name any more, or never was")
	}
	out := Officers{}
	for n, o := range all {
		if n == name {
			o.State = Removed
		}
		out[n] = o
	}
	if gone.Serves("") && out.Everywhere() < ps.greatest()+1 {
		return all, fault.New(fault.Conflict, "too few officers would be left to approve anything; enrol another one first")
	}
	return out, nil
}

// Everywhere returns how many officers serve every issuer.
func (all Officers) Everywhere() (n int) {
	for _, o := range all {
		if o.Serves("") {
			n++
		}
	}
	return n
}

// Identified returns the officer with this identity, who must serve an issuer.
func (all Officers) Identified(identity, issuer string) (Officer, error) {
	for _, o := range all {
		if o.Identity == identity && o.Serves(issuer) {
			return o, nil
		}
	}
	return Officer{}, errNoOfficer
}

// First checks the officers and the policy that dual control begins with: k
// approvers and a proposer, all of them active and for every issuer.
func First(officers []Officer, k int) (Officers, error) {
	all, err := Officers{}, Policy{DefaultPolicy, k}.Check()
	for _, o := range officers {
		if err != nil {
			return nil, err
		}
		if o.State != Active || o.Issuer != "" {
			return nil, fault.New(fault.InvalidInput, "the first officers are active and serve every issuer")
		}
		all, err = all.With(o)
	}
	if err == nil && (len(all) < k+1 || len(all) > FirstMax) {
		err = fault.New(fault.InvalidInput, "dual control begins with at least k+1 officers, a proposer and k approvers, and at most 12")
	}
	return all, err
}

// FirstMax bounds how many officers dual control begins with: one audit entry
// names them all.
const FirstMax = 12
