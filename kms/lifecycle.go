package kms

import (
	"context"
	"crypto/ecdh"
	"fmt"
	"time"

	"cardkms/derive"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// The life of a key version, each step an approved proposal about
// issuers/ISSUER/keys/KEY/versions/N:
//
//	key.create        makes the values in the token; the version is pre-activation
//	key.activate      from pre-activation or suspended
//	key.deactivate    when no card needs it, or with an exception that says why
//	key.compromise    it serves nothing any more
//	key.plan-move     a compromised version may reach its cards, to move them
//	key.destroy       its objects leave the token after some days
//	key.undestroy     they stay after all
//	key.allow-legacy  a version of gp-scp02 speaks SCP02 until a day
//
// One officer suspends a version at once (SuspendKey); to go on needs approvals.

// KeyStore makes and destroys the objects of key versions in one token.
type KeyStore interface {
	// Taken reports whether the token holds an object of this label.
	Taken(ctx context.Context, label string) (bool, error)
	// Generate makes a root inside the token. For class Agreeing it is a pair.
	Generate(ctx context.Context, label string, a key.Algorithm, c derive.Class) (derive.Root, error)
	// Public returns the public half of a pair.
	Public(ctx context.Context, r derive.Root) (*ecdh.PublicKey, error)
	// Destroy removes the object of a label, or both of a pair, for good.
	Destroy(ctx context.Context, label string) error
	// Absent initialises the token's library again and looks that no object of these
	// labels is there: one that a token kept somewhere would come back then.
	Absent(ctx context.Context, labels ...string) error
}

// keyExecutors are the life cycle's part of the executors.
func keyExecutors() map[string]executor {
	step := func(params []string, check stepCheck, change func(*key.Version, approval.Proposal, time.Time)) executor {
		// The check is made again in the transaction of the change: what it looks at may
		// be other rows than the proposal's own.
		checked := func(s *Service, tx store.Rows, p approval.Proposal) (v key.Version, now time.Time, err error) {
			now = s.cfg.Now().UTC().Round(time.Second)
			if v, err = proposed(tx, p); err == nil {
				err = check(tx, p, v, now)
			}
			return v, now, err
		}
		return executor{params: params, row: keyRow, check: func(ctx context.Context, s *Service, p approval.Proposal) error {
			return s.cfg.Log.View(ctx, func(tx store.Rows) error {
				_, _, err := checked(s, tx, p)
				return err
			})
		}, change: func(s *Service, rows store.Rows, p approval.Proposal, _ any) error {
			v, now, err := checked(s, rows, p)
			if err != nil {
				return err
			}
			change(&v, p, now)
			return put(rows, versionRef(v.ID), p.Expected, v)
		}}
	}
	to := func(state key.State) func(*key.Version, approval.Proposal, time.Time) {
		return func(v *key.Version, _ approval.Proposal, _ time.Time) { v.State = state }
	}
	return map[string]executor{
		approval.KeyCreate:     {row: keyRow, check: checkCreate, act: actCreate, change: changeCreate},
		approval.KeyActivate:   step(reasonOnly, checkActivate, to(key.Active)),
		approval.KeyDeactivate: step([]string{"exception", "reason"}, checkDeactivate, to(key.Deactivated)),
		approval.KeyCompromise: step(reasonOnly, mayBecome(key.Compromised), to(key.Compromised)),
		approval.KeyPlanMove: step(reasonOnly, checkPlanMove, func(v *key.Version, _ approval.Proposal, _ time.Time) {
			v.MovePlanned = true
		}),
		approval.KeyDestroy: step([]string{"days", "reason"}, checkDestroy, func(v *key.Version, p approval.Proposal, now time.Time) {
			wait, _ := approval.DestroyedAfter(p) // checked
			v.DestroyAt = now.Add(wait)
		}),
		approval.KeyAllowLegacy: step(nil, checkAllowLegacy, func(v *key.Version, p approval.Proposal, _ time.Time) {
			v.LegacyUntil, _ = approval.LegacyUntil(p) // checked
		}),
		approval.KeyUndestroy: step(reasonOnly, checkUndestroy, func(v *key.Version, _ approval.Proposal, _ time.Time) {
			v.DestroyAt = time.Time{}
		}),
	}
}

// stepCheck says whether a version may take a step now.
type stepCheck func(tx store.Rows, p approval.Proposal, v key.Version, now time.Time) error

func keyRow(c Case) (store.Ref, error) {
	id, err := versionOfKey(c.Proposal)
	return versionRef(id), err
}

// versionOfKey returns the name of the version that a proposal is about.
func versionOfKey(p approval.Proposal) (key.ID, error) {
	id, err := key.ParseID(p.Object)
	if err != nil || id.Issuer != p.Issuer {
		return key.ID{}, fault.New(fault.InvalidInput, "a key version is named as issuers/ISSUER/keys/KEY/versions/N, in its issuer")
	}
	return id, nil
}

// proposed returns the version that a proposal is about.
func proposed(tx store.Rows, p approval.Proposal) (v key.Version, err error) {
	ref, err := keyRow(Case{Case: approval.Case{Proposal: p}})
	if err == nil {
		_, err = need(tx, ref, &v)
	}
	return v, err
}

// mayBecome checks a transition. What is about to be destroyed becomes nothing but
// compromised: a version that serves again would lose its objects all the same.
func mayBecome(to key.State) stepCheck {
	return func(_ store.Rows, _ approval.Proposal, v key.Version, _ time.Time) error {
		if !v.State.May(to) {
			return fault.New(fault.KeyState, "a version that is "+string(v.State)+" does not become "+string(to))
		}
		if to != key.Compromised && !v.DestroyAt.IsZero() {
			return errToBeDestroyed
		}
		return nil
	}
}

var errToBeDestroyed = fault.New(fault.Conflict, "the version is to be destroyed; take that back first (key.undestroy)")

func checkPlanMove(_ store.Rows, _ approval.Proposal, v key.Version, _ time.Time) error {
	if v.State != key.Compromised {
		return fault.New(fault.KeyState, "the version is "+string(v.State)+", not compromised")
	}
	if !v.DestroyAt.IsZero() {
		return errToBeDestroyed
	}
	return nil
}

// checkActivate allows one rotation of a key at a time: while two versions
// protect, there is no third.
func checkActivate(tx store.Rows, p approval.Proposal, v key.Version, now time.Time) error {
	if err := mayBecome(key.Active)(tx, p, v, now); err != nil {
		return err
	}
	all, err := allVersions(tx, v.ID.Issuer)
	if err != nil {
		return err
	}
	protect := 0
	for _, other := range all {
		if other.ID.Name == v.ID.Name && other.ID != v.ID && other.Check(key.Protect, now) == "" {
			protect++
		}
	}
	if protect > 1 {
		return fault.New(fault.Conflict, "two versions of this key protect already; end that rotation first")
	}
	return nil
}

// checkDeactivate looks that no card needs the version, unless the proposal says
// why it goes all the same.
func checkDeactivate(tx store.Rows, p approval.Proposal, v key.Version, now time.Time) error {
	if err := mayBecome(key.Deactivated)(tx, p, v, now); err != nil {
		return err
	}
	var f fleet
	if _, err := get(tx, fleetRef(v.ID.Issuer, v.ID.Name), &f); err != nil {
		return err
	}
	if n := f.Cards[v.ID.Version]; n > 0 && p.Params["exception"] == "" {
		return fault.New(fault.Conflict, fmt.Sprintf("cards that still need this version: %d; move them, or propose it with exception=REASON", n))
	}
	return nil
}

func checkDestroy(tx store.Rows, p approval.Proposal, v key.Version, now time.Time) error {
	if _, err := approval.DestroyedAfter(p); err != nil {
		return err
	}
	return mayBecome(key.Destroyed)(tx, p, v, now)
}

// checkUndestroy lets a version stay until its objects begin to go.
func checkUndestroy(_ store.Rows, _ approval.Proposal, v key.Version, _ time.Time) error {
	if v.DestroyAt.IsZero() || v.Destroying || v.State == key.Destroyed {
		return fault.New(fault.Conflict, "the version is not to be destroyed, or is destroyed")
	}
	return nil
}

// checkAllowLegacy makes exceptions for keys of SCP02 only. A later one takes the place
// of the one before; to end one at once there is key.suspend.
func checkAllowLegacy(_ store.Rows, p approval.Proposal, v key.Version, now time.Time) error {
	until, err := approval.LegacyUntil(p)
	switch {
	case err != nil:
		return err
	case v.Usage != key.GPSCP02:
		return fault.New(fault.Conflict, "only keys of gp-scp02 need an exception")
	case v.State == key.Destroyed:
		return fault.New(fault.KeyState, "the key version is destroyed")
	case !now.Before(until):
		return fault.New(fault.Conflict, "the exception would be over already")
	}
	return nil
}

// SuspendKey stops every use of a version at once, by one officer. Only an
// approved key.activate lets it go on.
func (s *Service) SuspendKey(ctx context.Context, r Request, issuer, name string, version int) (key.Version, error) {
	id := key.ID{Issuer: issuer, Name: name, Version: version}
	e, err := s.start(ctx, r, KeySuspend, issuer, id.String())
	if err != nil {
		return key.Version{}, err
	}
	e.key = id.String()
	var v key.Version
	// Also after an error: a commit whose answer was lost is a change too.
	defer s.forget()
	err = s.settle(ctx, e, func(tx store.Rows) error {
		n, err := need(tx, versionRef(id), &v)
		if err != nil {
			return err
		}
		if !v.State.May(key.Suspended) {
			return fault.New(fault.KeyState, "a version that is "+string(v.State)+" does not become suspended")
		}
		v.State = key.Suspended
		return put(tx, versionRef(id), n, v)
	})
	if err != nil {
		return key.Version{}, err
	}
	return v, nil
}
