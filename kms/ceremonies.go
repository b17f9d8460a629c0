package kms

import (
	"cmp"
	"context"
	"encoding/hex"
	"strings"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// A key ceremony is carried out by the program at the console, step by step, as one
// reviewed file says. It is known by the SHA-256 of that file, and stands in the log
// from ceremony.begin to ceremony.end.

// Operations of a ceremony. Nobody has a permission for them: they are at the console
// only.
const (
	CeremonyBegin     Operation = "ceremony.begin"
	CeremonyEnd       Operation = "ceremony.end"
	CeremonyAbandon   Operation = "ceremony.abandon"
	CeremonyToken     Operation = "ceremony.token"
	CeremonyComponent Operation = "ceremony.component"
	CeremonyKEK       Operation = "ceremony.kek"
	CeremonyDestroy   Operation = "ceremony.destroy-kek"
)

// Ceremony is what the service keeps of a ceremony.
type Ceremony struct {
	Digest   string   `json:"digest"`             // SHA-256 of the file, lower-case hex
	Officers []string `json:"officers,omitempty"` // who signed the file, as far as that was judged
	// Signatures are those of the last beginning, until there are officers to judge them.
	Signatures approval.Signatures `json:"signatures,omitempty"`
	First      bool                `json:"first,omitempty"` // it made the first officers
	Told       bool                `json:"told,omitempty"`  // the log says what was done to the token
	// Steps are those that happened, each in the transaction of its entry.
	Steps     map[string]CeremonyDone `json:"steps,omitempty"`
	Ended     bool                    `json:"ended,omitempty"`
	Abandoned bool                    `json:"abandoned,omitempty"`
}

// CeremonyDone says who took a step at the console, and when.
type CeremonyDone struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

const kindCeremony store.Kind = "ceremony"

func ceremonyRef(digest string) store.Ref { return store.Ref{Kind: kindCeremony, ID: digest} }

// NewCeremony asks to begin a ceremony.
type NewCeremony struct {
	Digest     [32]byte            // SHA-256 of the file
	Signatures approval.Signatures // over approval.CeremonyStatement
	Detail     map[string]string   // title and the like, at most 5 pairs
}

// BeginCeremony lets a ceremony go on, and says so in the log, with all signatures, so
// that an auditor judges them too. Once there are officers it needs as many of them as
// the policies say; before, whoever is at the console makes the first keys, and the
// signatures wait for the officers whom the ceremony makes, see EnrolFirst. One that was
// signed goes on, also after an officer left. by names the person at the console.
func (s *Service) BeginCeremony(ctx context.Context, by string, n NewCeremony) (c Ceremony, err error) {
	c.Digest = hex.EncodeToString(n.Digest[:])
	e := console(CeremonyBegin, "ceremonies/"+c.Digest, by)
	for k, v := range n.Detail {
		e.detail[k] = v
	}
	if c, err = s.approvedCeremony(ctx, n); err != nil {
		return c, s.refuse(ctx, e, err)
	}
	n.Signatures.AddTo(e.detail)
	return c, s.log(ctx, &e, func(tx store.Rows) error {
		v, err := versionOf(tx, ceremonyRef(c.Digest))
		if err != nil {
			return err
		}
		return put(tx, ceremonyRef(c.Digest), v, c)
	})
}

// madeOfficers books that a ceremony made the first officers, who signed it themselves.
func madeOfficers(tx store.Rows, digest string, done CeremonyDone, all approval.Officers, k int) error {
	var c Ceremony
	v, err := need(tx, ceremonyRef(digest), &c)
	if err != nil {
		return err
	}
	b, err := hex.DecodeString(digest)
	if err != nil || len(b) != 32 {
		return fault.New(fault.InvalidInput, "a ceremony is named by the SHA-256 of its file")
	}
	if c.Officers, err = all.Quorum(approval.CeremonyStatement([32]byte(b)), c.Signatures, k); err != nil {
		return err
	}
	c.First, c.Signatures = true, nil
	c.did(OfficersStep, done)
	return put(tx, ceremonyRef(digest), v, c)
}

// OfficersStep is the name of the step that makes the first officers.
const OfficersStep = "officers"

func (c *Ceremony) did(step string, done CeremonyDone) {
	if c.Steps == nil {
		c.Steps = map[string]CeremonyDone{}
	}
	c.Steps[step] = done
}

// doneNow is what a step that happens now is booked with.
func (s *Service) doneNow(by string) CeremonyDone {
	return CeremonyDone{By: by, At: s.cfg.Now().UTC().Round(time.Second)}
}

// CheckCeremony says what BeginCeremony would refuse, and changes nothing.
func (s *Service) CheckCeremony(ctx context.Context, n NewCeremony) error {
	_, err := s.approvedCeremony(ctx, n)
	return err
}

func (s *Service) approvedCeremony(ctx context.Context, n NewCeremony) (c Ceremony, err error) {
	c.Digest = hex.EncodeToString(n.Digest[:])
	if len(n.Signatures) > approval.SignaturesMax {
		return c, fault.New(fault.TooLarge, "the log has no room for so many signatures; keep those that are needed")
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if _, err := get(tx, ceremonyRef(c.Digest), &c); err != nil {
			return err
		}
		if c.Abandoned {
			return errAbandoned
		}
		if len(c.Officers) > 0 {
			return nil
		}
		officers, err := officersOf(tx)
		if err != nil {
			return err
		}
		if len(officers) == 0 {
			c.Signatures = n.Signatures
			return nil
		}
		policies, err := policiesOf(tx)
		if err != nil {
			return err
		}
		k := policies.Required(approval.Proposal{Operation: approval.CeremonyOperation})
		c.Officers, err = officers.Quorum(approval.CeremonyStatement(n.Digest), n.Signatures, k)
		c.Signatures = nil
		return err
	})
	return c, err
}

var errAbandoned = fault.New(fault.Conflict, "this ceremony was abandoned; what is wanted now needs a new file")

// under refuses what is part of a ceremony that did not begin, or ended.
func (s *Service) under(ctx context.Context, digest string) error {
	c, err := s.Ceremony(ctx, digest)
	if err == nil && c.Abandoned {
		err = errAbandoned
	}
	if err == nil && c.Ended {
		err = fault.New(fault.Conflict, "this ceremony ended; what is wanted now needs a new file")
	}
	return err
}

// Ceremony returns what is kept of a ceremony; one that did not begin is
// fault.NotFound.
func (s *Service) Ceremony(ctx context.Context, digest string) (c Ceremony, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err = need(tx, ceremonyRef(digest), &c)
		return err
	})
	return c, err
}

// onCeremony changes what is kept of a ceremony, in the transaction of an entry.
func onCeremony(tx store.Rows, digest string, change func(*Ceremony)) error {
	var c Ceremony
	v, err := need(tx, ceremonyRef(digest), &c)
	if err != nil {
		return err
	}
	change(&c)
	return put(tx, ceremonyRef(digest), v, c)
}

// Officers returns the officers and how many approve what has no policy of its own, for
// the console.
func (s *Service) Officers(ctx context.Context) (all approval.Officers, k int, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if all, err = officersOf(tx); err != nil {
			return err
		}
		policies, err := policiesOf(tx)
		k = policies.Required(approval.Proposal{Operation: approval.CeremonyOperation})
		return err
	})
	return all, k, err
}

// EndCeremony logs the digest of a ceremony's record and returns the record as a note
// that the log's key signed. The record is text that ends with a line feed.
func (s *Service) EndCeremony(ctx context.Context, by, digest, record string) ([]byte, error) {
	if c, err := s.Ceremony(ctx, digest); err != nil || c.Abandoned {
		return nil, cmp.Or(err, error(errAbandoned))
	}
	e := console(CeremonyEnd, "ceremonies/"+digest, by)
	e.digest = digestOf([]byte(strings.TrimSuffix(record, "\n")))
	err := s.log(ctx, &e, func(tx store.Rows) error {
		return onCeremony(tx, digest, func(c *Ceremony) { c.Ended = true })
	})
	if err != nil {
		return nil, err
	}
	return s.cfg.Log.SignText(record)
}

// AbandonCeremony gives a ceremony up for good: intent, act, which removes what was kept
// for it, and outcome. What it made until then stays. If the process dies in between,
// it can be called again. One that never began has nothing in the log.
func (s *Service) AbandonCeremony(ctx context.Context, by, digest string, act func(context.Context) error) error {
	c, err := s.Ceremony(ctx, digest)
	if fault.CodeOf(err) == fault.NotFound {
		return act(ctx)
	}
	if err != nil {
		return err
	}
	e := console(CeremonyAbandon, "ceremonies/"+digest, by)
	if e.intent, err = s.intend(ctx, e); err != nil {
		return err
	}
	if err := act(ctx); err != nil {
		return s.refuse(ctx, e, err)
	}
	if c.Ended { // it stays what it became; what was kept for it is gone
		return s.log(ctx, &e, nil)
	}
	return s.log(ctx, &e, func(tx store.Rows) error {
		return onCeremony(tx, digest, func(c *Ceremony) { c.Abandoned = true })
	})
}
