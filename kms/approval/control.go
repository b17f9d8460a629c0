package approval

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cardkms/kms/fault"
)

// Operations that change dual control itself. Their proposals are read here, so
// that the service and a Replay read them alike.
const (
	OfficerEnrol  = "officer.enrol"
	OfficerRemove = "officer.remove"
	PolicySet     = "policy.set"
)

// Operations that end what one person began.
const (
	CardRelease  = "card.release"
	CardExplain  = "card.explain" // changes nothing, but tells something about keys
	ClientResume = "client.resume"
	SystemResume = "system.resume"
)

// Operations of card profiles.
const (
	ProfileRegister = "profile.register"
	ProfileWithdraw = "profile.withdraw"
)

// Operations of the life of a key version.
const (
	KeyCreate     = "key.create"
	KeyActivate   = "key.activate"
	KeyDeactivate = "key.deactivate"
	KeyCompromise = "key.compromise"
	KeyPlanMove   = "key.plan-move"
	KeyDestroy    = "key.destroy"
	KeyUndestroy  = "key.undestroy"
	// KeyAllowLegacy is the exception without which SCP02 is not spoken.
	KeyAllowLegacy = "key.allow-legacy"
)

// controlled are the operations that happen by an approved proposal only. The
// service has an executor for exactly these; a Replay reports one without proof.
var controlled = []string{
	CardExplain, CardRelease,
	ClientResume,
	GlassBreak, GlassReview,
	KeyActivate, KeyAllowLegacy, KeyCompromise, KeyCreate, KeyDeactivate, KeyDestroy, KeyPlanMove, KeyUndestroy,
	OfficerEnrol, OfficerRemove,
	PolicySet,
	ProfileRegister, ProfileWithdraw,
	SystemResume,
}

// Controlled returns the operations that need an approved proposal, sorted.
func Controlled() []string { return slices.Clone(controlled) }

const (
	sealedYes      = "yes"
	officersPrefix = "officers/"
	policiesPrefix = "policies/"
)

// EnrolParams returns the parameters of a proposal to enrol an officer.
func EnrolParams(o Officer) map[string]string {
	params := map[string]string{"identity": o.Identity, "public": base64.RawURLEncoding.EncodeToString(o.Public)}
	if o.State == Sealed {
		params["sealed"] = sealedYes
	}
	if o.Issuer != "" {
		params["issuer"] = o.Issuer
	}
	return params
}

// EnrolledBy returns the officer that a proposal enrols: object officers/NAME,
// parameters identity, public (base64url), and issuer and sealed, which may be
// missing.
func EnrolledBy(p Proposal) (Officer, error) {
	name, ok := strings.CutPrefix(p.Object, officersPrefix)
	public, err := base64.RawURLEncoding.Strict().DecodeString(p.Params["public"])
	sealed, seal := p.Params["sealed"]
	if !ok || err != nil || p.Issuer != "" || !p.Only("identity", "public", "issuer", "sealed") || seal && sealed != sealedYes {
		return Officer{}, fault.New(fault.InvalidInput, "an officer is enrolled as officers/NAME for every issuer, with identity, public and maybe issuer and sealed=yes")
	}
	o := Officer{Name: name, Identity: p.Params["identity"], Public: ed25519.PublicKey(public), Issuer: p.Params["issuer"], State: Active}
	if seal {
		o.State = Sealed
	}
	return o, o.Check()
}

// RemovedBy returns the name of the officer that a proposal removes.
func RemovedBy(p Proposal) (string, error) {
	name, ok := strings.CutPrefix(p.Object, officersPrefix)
	if !ok || !validOfficer(name) || p.Issuer != "" || !p.Only("reason") {
		return "", fault.New(fault.InvalidInput, "an officer is removed as officers/NAME for every issuer, maybe with a reason")
	}
	return name, nil
}

// SetBy returns the policy that a proposal sets: object policies/OPERATION,
// parameter k.
func SetBy(p Proposal) (Policy, error) {
	name, ok := strings.CutPrefix(p.Object, policiesPrefix)
	if !ok || p.Issuer != "" || !p.Only("k") {
		return Policy{}, fault.New(fault.InvalidInput, "a policy is set as policies/OPERATION for every issuer, with k")
	}
	set := Policy{Operation: name, K: parseK(p.Params["k"])}
	return set, set.Check()
}

// Signs reports whether a proposal signs a document: its parameter sha256 is the SHA-256
// digest, 64 lower-case hexadecimal digits.
func (p Proposal) Signs(document []byte) bool {
	digest := sha256.Sum256(document)
	return p.Params["sha256"] == hex.EncodeToString(digest[:])
}

// RegisteredBy checks a proposal to register a card profile: parameter sha256, the digest
// that Signs compares.
func RegisteredBy(p Proposal) error {
	b, err := hex.DecodeString(p.Params["sha256"])
	if err != nil || len(b) != sha256.Size || p.Params["sha256"] != hex.EncodeToString(b) || !p.Only("sha256") {
		return fault.New(fault.InvalidInput, "a card profile is registered with sha256, the digest of its document in lower-case hexadecimal, and the document")
	}
	return nil
}

// WithdrawnBy checks a proposal to withdraw a card profile: parameter reason.
func WithdrawnBy(p Proposal) error {
	if p.Params["reason"] == "" || !p.Only("reason") {
		return fault.New(fault.InvalidInput, "a card profile is withdrawn with a reason")
	}
	return nil
}

// Days until the objects of a destroyed version leave the token.
const (
	destroyDays    = 30
	destroyDaysMin = 7
	destroyDaysMax = 365
)

// DestroyedAfter returns how long after its execution a proposal has the objects of a
// key version leave the token: parameter days, which may be missing.
func DestroyedAfter(p Proposal) (time.Duration, error) {
	days := destroyDays
	if text, ok := p.Params["days"]; ok {
		days = parseK(text)
	}
	if days < destroyDaysMin || days > destroyDaysMax {
		return 0, fault.New(fault.InvalidInput, fmt.Sprintf("days is %d to %d", destroyDaysMin, destroyDaysMax))
	}
	return time.Duration(days) * 24 * time.Hour, nil
}

// LegacyUntil returns the end of the exception that a proposal makes for a deprecated
// protocol: parameter until, YYYY-MM-DD, is its last day in UTC and at most a year after
// the proposal; parameter reason says why.
func LegacyUntil(p Proposal) (time.Time, error) {
	last, err := time.Parse(time.DateOnly, p.Params["until"])
	end := last.AddDate(0, 0, 1)
	if err != nil || p.Params["reason"] == "" || !p.Only("until", "reason") || !end.After(p.Created) || last.After(p.Created.AddDate(1, 0, 0)) {
		return time.Time{}, fault.New(fault.InvalidInput, "an exception has until=YYYY-MM-DD, at most a year ahead, and a reason")
	}
	return end, nil
}

// Only reports whether a proposal has no other parameters than these.
func (p Proposal) Only(keys ...string) bool {
	for k := range p.Params {
		if !slices.Contains(keys, k) {
			return false
		}
	}
	return true
}

// FirstDetail returns how an audit entry names the officers and the policy that
// dual control begins with: k, and o0, o1, … as NAME:PUBLIC:IDENTITY with the
// public key in base64url.
func FirstDetail(officers []Officer, k int) map[string]string {
	detail := map[string]string{"k": strconv.Itoa(k)}
	for i, o := range officers {
		detail["o"+strconv.Itoa(i)] = o.Name + ":" + base64.RawURLEncoding.EncodeToString(o.Public) + ":" + o.Identity
	}
	return detail
}

// firstOf reads what FirstDetail wrote.
func firstOf(detail map[string]string) (Officers, int, error) {
	var officers []Officer
	for i := range FirstMax {
		v, ok := detail["o"+strconv.Itoa(i)]
		if !ok {
			break
		}
		name, rest, _ := strings.Cut(v, ":")
		key, identity, _ := strings.Cut(rest, ":")
		public, err := base64.RawURLEncoding.Strict().DecodeString(key)
		if err != nil {
			return nil, 0, fault.New(fault.InvalidInput, "an officer's public key is not base64url")
		}
		officers = append(officers, Officer{Name: name, Identity: identity, Public: public, State: Active})
	}
	k := parseK(detail["k"])
	all, err := First(officers, k)
	return all, k, err
}

// ProposeDetail returns the details of the entry that tells of a proposal: p0, p1, … are
// pieces of the base64url of its encoding.
func ProposeDetail(encoding []byte) map[string]string {
	detail := map[string]string{}
	addPieces(detail, "p", encoding)
	return detail
}

// proposedBy reads what ProposeDetail wrote.
func proposedBy(detail map[string]string) (Proposal, error) {
	encoding, err := piecesIn(detail, "p")
	if err != nil {
		return Proposal{}, err
	}
	return Parse(encoding)
}

// DecideDetail returns the details of the entry that tells of a decision.
func DecideDetail(officer string, signature []byte) map[string]string {
	detail := map[string]string{"officer": officer}
	if len(signature) == ed25519.SignatureSize {
		detail["signature"] = base64.RawURLEncoding.EncodeToString(signature)
	}
	return detail
}

// ExecuteDetail returns the details of the entries of an operation that happens by
// an approved proposal.
func ExecuteDetail(id, officer string) map[string]string {
	return map[string]string{"proposal": id, "officer": officer}
}
