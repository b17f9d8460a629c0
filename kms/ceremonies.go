package kms

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

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
	CeremonyComponent Operation = "ceremony.component"
	CeremonyKEK       Operation = "ceremony.kek"
	CeremonyDestroy   Operation = "ceremony.destroy-kek"
)

// Ceremony is what the service keeps of a ceremony.
type Ceremony struct {
	Digest   string   `json:"digest"`   // SHA-256 of the file, lower-case hex
	Officers []string `json:"officers"` // who signed the file; none while there were no officers
	Ended    bool     `json:"ended"`
	First    bool     `json:"first,omitempty"` // it made the first officers
}

const kindCeremony store.Kind = "ceremony"

func ceremonyRef(digest string) store.Ref { return store.Ref{Kind: kindCeremony, ID: digest} }

// NewCeremony asks to begin a ceremony.
type NewCeremony struct {
	Digest     [32]byte          // SHA-256 of the file
	Signatures map[string][]byte // over approval.CeremonyStatement, by officer
	Detail     map[string]string // what was done before there was a log, at most 10 pairs
}

// BeginCeremony lets a ceremony go on, and says so in the log. Once there are officers
// it needs the signatures of as many as the default policy says; before, whoever is at the
// console makes the first keys and officers. One that was signed, or that made the
// officers, goes on, also after an officer left; any other that began before there
// were officers needs their signatures now. by names the person at the console.
func (s *Service) BeginCeremony(ctx context.Context, by string, n NewCeremony) (c Ceremony, err error) {
	c.Digest = hex.EncodeToString(n.Digest[:])
	e := console(CeremonyBegin, "ceremonies/"+c.Digest, by)
	for k, v := range n.Detail {
		e.detail[k] = v
	}
	if c, err = s.approvedCeremony(ctx, n); err != nil {
		return c, s.refuse(ctx, e, err)
	}
	for i, name := range c.Officers {
		// With its signature, so that an auditor can verify it.
		e.detail[fmt.Sprintf("officer%d", i)] = strings.TrimSuffix(name+":"+base64.RawURLEncoding.EncodeToString(n.Signatures[name]), ":")
	}
	return c, s.log(ctx, &e, func(tx store.Rows) error {
		var have Ceremony
		v, err := get(tx, ceremonyRef(c.Digest), &have)
		if err != nil || v > 0 && len(have.Officers) == len(c.Officers) {
			return err
		}
		return put(tx, ceremonyRef(c.Digest), v, c)
	})
}

// madeOfficers books that a ceremony made the first officers.
func madeOfficers(tx store.Rows, digest string) error {
	var c Ceremony
	v, err := need(tx, ceremonyRef(digest), &c)
	if err != nil {
		return err
	}
	c.First = true
	return put(tx, ceremonyRef(digest), v, c)
}

// CheckCeremony says what BeginCeremony would refuse, and changes nothing.
func (s *Service) CheckCeremony(ctx context.Context, n NewCeremony) error {
	_, err := s.approvedCeremony(ctx, n)
	return err
}

// ceremonyOfficersMax bounds how many names an entry has room for.
const ceremonyOfficersMax = 5

func (s *Service) approvedCeremony(ctx context.Context, n NewCeremony) (c Ceremony, err error) {
	c.Digest = hex.EncodeToString(n.Digest[:])
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if _, err := get(tx, ceremonyRef(c.Digest), &c); err != nil || c.First || len(c.Officers) > 0 {
			return err
		}
		officers, err := officersOf(tx)
		if err != nil || len(officers) == 0 {
			return err
		}
		policies, err := policiesOf(tx)
		if err != nil {
			return err
		}
		if c.Officers, err = officers.CeremonySigners(n.Digest, n.Signatures); err != nil {
			return err
		}
		slices.Sort(c.Officers)
		if k := policies.Required(approval.Proposal{Operation: approval.CeremonyOperation}); len(c.Officers) < k {
			return fault.New(fault.ApprovalRequired, fmt.Sprintf("%d officers signed the ceremony's file, %d are needed", len(c.Officers), k))
		}
		c.Officers = c.Officers[:min(len(c.Officers), ceremonyOfficersMax)]
		return nil
	})
	return c, err
}

// under refuses what is part of a ceremony that did not begin, or ended.
func (s *Service) under(ctx context.Context, digest string) error {
	c, _, err := s.begun(ctx, digest)
	if err == nil && c.Ended {
		err = fault.New(fault.Conflict, "this ceremony ended; what is wanted now needs a new file")
	}
	return err
}

// begun refuses a ceremony that did not begin.
func (s *Service) begun(ctx context.Context, digest string) (c Ceremony, version int64, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		version, err = need(tx, ceremonyRef(digest), &c)
		return err
	})
	return c, version, err
}

// CeremonyStep is one act of a ceremony that is about no row.
type CeremonyStep struct {
	Ceremony string // digest of the file
	Op       Operation
	Object   string
	Detail   map[string]string
}

// CarryOut logs the intent of a step, acts, and logs the outcome. If the process dies
// in between, the intent says what may have happened, and the step can be taken again.
func (s *Service) CarryOut(ctx context.Context, by string, step CeremonyStep, act func(context.Context) error) error {
	if err := s.under(ctx, step.Ceremony); err != nil {
		return err
	}
	e := console(step.Op, printable(step.Object), by)
	e.detail["ceremony"] = step.Ceremony
	for k, v := range step.Detail {
		e.detail[k] = v
	}
	var err error
	if e.intent, err = s.intend(ctx, e); err != nil {
		return err
	}
	if err := act(ctx); err != nil {
		return s.refuse(ctx, e, err)
	}
	return s.log(ctx, &e, nil)
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
	c, version, err := s.begun(ctx, digest)
	if err != nil {
		return nil, err
	}
	e := console(CeremonyEnd, "ceremonies/"+digest, by)
	e.digest = digestOf([]byte(strings.TrimSuffix(record, "\n")))
	c.Ended = true
	if err := s.log(ctx, &e, func(tx store.Rows) error { return put(tx, ceremonyRef(digest), version, c) }); err != nil {
		return nil, err
	}
	return s.cfg.Log.SignText(record)
}
