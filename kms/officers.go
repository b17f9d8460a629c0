package kms

import (
	"context"
	"slices"
	"strings"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

func officerRef(name string) store.Ref { return store.Ref{Kind: kindOfficer, ID: name} }

func policyRef(operation string) store.Ref { return store.Ref{Kind: kindPolicy, ID: operation} }

// officersOf reads every officer; there are at most approval.OfficersMax.
func officersOf(tx store.Rows) (approval.Officers, error) {
	some, _, err := page[approval.Officer](tx, kindOfficer, "", "", approval.OfficersMax)
	all := approval.Officers{}
	for _, o := range some {
		all[o.Name] = o
	}
	return all, err
}

// acting returns the officers as they may act on an operation now.
func acting(tx store.Rows, operation string, now time.Time) (approval.Officers, error) {
	all, err := officersOf(tx)
	if err != nil {
		return nil, err
	}
	var g approval.Glass
	_, err = get(tx, glassRef, &g)
	return all.Acting(operation, g, now), err
}

// policiesMax is above the number of operations that can have a policy.
const policiesMax = 256

func policiesOf(tx store.Rows) (approval.Policies, error) {
	some, _, err := page[approval.Policy](tx, kindPolicy, "", "", policiesMax)
	all := approval.Policies{}
	for _, p := range some {
		all[p.Operation] = p.K
	}
	return all, err
}

// Control is who takes part in dual control, and what it asks for.
type Control struct {
	Officers []approval.Officer // by name
	Policies []approval.Policy  // by operation; what has none needs what "default" says
	Glass    approval.Glass
}

// Control returns the officers and policies. Who is bound to an issuer sees the
// officers who serve it.
func (s *Service) Control(ctx context.Context, r Request) (out Control, err error) {
	if err := s.read(ctx, r, ApprovalRead, r.Caller.Issuer, "officers"); err != nil {
		return out, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		officers, err := officersOf(tx)
		if err != nil {
			return err
		}
		for _, o := range officers {
			if r.Caller.Issuer == "" || o.Issuer == "" || o.Issuer == r.Caller.Issuer {
				out.Officers = append(out.Officers, o)
			}
		}
		policies, err := policiesOf(tx)
		if err != nil {
			return err
		}
		for op, k := range policies {
			out.Policies = append(out.Policies, approval.Policy{Operation: op, K: k})
		}
		_, err = get(tx, glassRef, &out.Glass)
		return err
	})
	slices.SortFunc(out.Officers, func(a, b approval.Officer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Policies, func(a, b approval.Policy) int { return strings.Compare(a.Operation, b.Operation) })
	return out, err
}

// EnrolFirst makes the first officers and the default policy, at the console and
// only while there is no officer at all: afterwards officers enrol officers. There
// must be at least k+1 of them, a proposer and k approvers, for every issuer. by
// names the person at the console, ceremony the one that this is part of, if any: k of
// the officers that it makes must have signed it. Officers, policy and entry are one
// transaction.
func (s *Service) EnrolFirst(ctx context.Context, by, ceremony string, officers []approval.Officer, k int) error {
	first, err := approval.First(officers, k)
	if err != nil {
		return err
	}
	e := console(OfficerInit, "officers", by)
	e.detail = approval.FirstDetail(officers, k)
	e.detail["by"] = by
	if ceremony != "" {
		e.detail["ceremony"] = ceremony
	}
	return s.settle(ctx, e, func(tx store.Rows) error {
		have, err := officersOf(tx)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			return fault.New(fault.Conflict, "there are officers; they enrol others")
		}
		if ceremony != "" {
			if err := madeOfficers(tx, ceremony, s.doneNow(by), first, k); err != nil {
				return err
			}
		}
		for _, o := range officers {
			if err := put(tx, officerRef(o.Name), 0, o); err != nil {
				return err
			}
		}
		return put(tx, policyRef(approval.DefaultPolicy), 0, approval.Policy{Operation: approval.DefaultPolicy, K: k})
	})
}
