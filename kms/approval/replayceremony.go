package approval

import (
	"encoding/hex"
	"strings"
	"time"

	"cardkms/kms/fault"
)

// The words by which the entries of ceremonies, and of what comes of approvals later,
// are known.
const (
	opBegin     = "ceremony.begin"
	opEnd       = "ceremony.end"
	opAbandon   = "ceremony.abandon"
	opToken     = "ceremony.token"
	opKEK       = "ceremony.kek"
	opKEKGone   = "ceremony.destroy-kek"
	opLoad      = "key.load"
	opProfile   = "profile.load"
	opDestroyed = "key.destroyed"

	ceremoniesPrefix = "ceremonies/"
)

// ceremony is what a Replay knows of a key ceremony.
type ceremony struct {
	digest     [32]byte
	signatures Signatures // of its last beginning, while nobody could judge them
	proven     bool       // enough officers signed
	over       bool
}

// begin judges the signatures of a ceremony by the officers of that moment. Before there
// are any, they wait for the officers whom the ceremony makes. One that is proven goes
// on, also after an officer left.
func (r *Replay) begin(e Record) error {
	id, ok := strings.CutPrefix(e.Object, ceremoniesPrefix)
	digest, err := hex.DecodeString(id)
	if !ok || err != nil || len(digest) != 32 {
		return fault.New(fault.InvalidInput, "a ceremony is named by the SHA-256 of its file")
	}
	c := r.ceremonies[id]
	if c.proven {
		return nil
	}
	c.digest = [32]byte(digest)
	if c.signatures, err = signaturesIn(e.Detail); err == nil && len(r.officers) > 0 {
		_, err = r.officers.Quorum(CeremonyStatement(c.digest), c.signatures, r.policies.Required(Proposal{Operation: CeremonyOperation}))
		c.proven = err == nil
	}
	if c.proven {
		r.Signed++
	}
	r.ceremonies[id] = c
	return err
}

// madeBy judges the ceremony that made the first officers: they signed it themselves.
func (r *Replay) madeBy(id string) error {
	c, ok := r.ceremonies[id]
	if !ok {
		return fault.New(fault.ApprovalRequired, "no such ceremony began")
	}
	if _, err := r.officers.Quorum(CeremonyStatement(c.digest), c.signatures, r.policies.k(DefaultPolicy)); err != nil {
		return err
	}
	c.proven = true
	r.Signed++
	r.ceremonies[id] = c
	return nil
}

// within judges a step of a ceremony. While there are no officers, whoever is at the
// console decides.
func (r *Replay) within(e Record) error {
	c := r.ceremonies[e.Detail["ceremony"]]
	switch {
	case c.over:
		return fault.New(fault.Conflict, "its ceremony was over")
	case len(r.officers) > 0 && !c.proven:
		return fault.New(fault.ApprovalRequired, "no ceremony that enough officers signed allows it")
	}
	return nil
}

func (r *Replay) end(e Record) {
	id := strings.TrimPrefix(e.Object, ceremoniesPrefix)
	if c, ok := r.ceremonies[id]; ok {
		c.over = true
		r.ceremonies[id] = c
	}
}

// destroyed judges that objects left the token: an approved key.destroy said so, its days
// were over, and no key.undestroy took it back.
func (r *Replay) destroyed(e Record) error {
	due, ok := r.ends[e.Object]
	if !ok {
		return fault.New(fault.ApprovalRequired, "no proposal has it destroyed, or one took that back")
	}
	if e.Time.Before(due.Add(-clockSlack)) {
		return fault.New(fault.Conflict, "its days were not over")
	}
	delete(r.ends, e.Object)
	return nil
}

// restored judges a step back to an older database, which the log goes on from.
func (r *Replay) restored(e Record) error {
	x, signatures, err := restoredIn(e.Detail)
	if err != nil {
		return err
	}
	if x.To.Size != e.Sequence {
		return fault.New(fault.Conflict, "it is about a log of another size")
	}
	if _, err = r.Restores(x, signatures, e.Time); err == nil {
		r.Signed++
	}
	return err
}

// Restores returns the names of the officers who signed a restoration, if they are
// enough for the strictest policy. The officers are those of the entries so far: the
// rows of a database that was put back say no more than its log does, and the log has
// a signature for everybody but the first of them.
func (r *Replay) Restores(x Restoration, signatures Signatures, now time.Time) ([]string, error) {
	statement, err := x.Statement()
	if err == nil {
		err = x.live(now)
	}
	if err == nil && len(r.officers) == 0 {
		err = fault.New(fault.ApprovalRequired, "this log knows no officers, so nobody can accept it")
	}
	if err != nil {
		return nil, err
	}
	return r.officers.Quorum(statement, signatures, r.policies.Required(Proposal{Operation: LogRestore}))
}
