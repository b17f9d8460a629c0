package kms

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// executor is what an approved proposal of one operation does.
type executor struct {
	// params names the parameters that a proposal may have. nil is for operations whose
	// reader of parameters refuses others itself.
	params []string
	// row names the row of the proposal's object. Its version is what the proposal
	// expects: while it is another one, the proposal is void.
	row func(c Case) (store.Ref, error)
	// keep readies a new case: it replaces what the log must not say in the proposal's
	// object by what stands for it, or judges the document that goes with it; may be nil.
	keep func(ctx context.Context, s *Service, c *Case) error
	// check says whether the proposal makes sense now, with the object's current row
	// version; it changes nothing.
	check func(ctx context.Context, s *Service, p approval.Proposal) error
	// act does what cannot be undone or takes the token's time, before the
	// transaction; may be nil. What it returns is handed to change. The intent is
	// durable before it. If the process dies after it, the proposal is still
	// approved and act runs again, so it must be able to.
	act func(ctx context.Context, s *Service, p approval.Proposal) (any, error)
	// change makes the row changes, in the transaction that consumes the proposal.
	change func(s *Service, rows store.Rows, p approval.Proposal, acted any) error
}

// executors are the operations that happen by an approved proposal only;
// approval.Controlled names the same ones for those who verify the log.
var executors = map[string]executor{
	approval.OfficerEnrol:    {row: officerRow, check: checkEnrol, change: changeEnrol},
	approval.OfficerRemove:   {row: officerRow, check: checkRemove, change: changeRemove},
	approval.ProfileRegister: {row: profileRow, keep: keepProfile, check: checkProfile, act: actProfile, change: changeProfile},
	approval.ProfileWithdraw: {row: profileRow, check: checkWithdraw, change: changeWithdraw},
	approval.PolicySet:       {row: policyRow, check: checkPolicy, change: changePolicy},
	approval.GlassBreak:      {row: glassRow, check: checkBreak, change: changeBreak},
	approval.GlassReview:     {row: glassRow, check: checkReview, change: changeReview},
	approval.CardExplain:     {row: explainedRow, keep: hideExplained, check: checkExplain, act: actExplain, change: changeExplain},
	approval.CardRelease:     {params: reasonOnly, row: releaseRow, keep: hideCard, check: checkRelease, change: changeRelease},
	approval.ClientResume:    {params: reasonOnly, row: clientRow, check: checkClientResume, change: changeClientResume},
	approval.SystemResume:    {params: reasonOnly, row: haltRow, check: checkResume, change: changeResume},
}

// reasonOnly is for operations that need no parameter: why they are proposed stands in the
// log for whoever asks.
var reasonOnly = []string{"reason"}

func init() { maps.Copy(executors, keyExecutors()) }

func officerRow(c Case) (store.Ref, error) {
	return officerRef(strings.TrimPrefix(c.Proposal.Object, "officers/")), nil
}

func checkEnrol(ctx context.Context, s *Service, p approval.Proposal) error {
	o, err := approval.EnrolledBy(p)
	if err != nil {
		return err
	}
	if o.Issuer != "" && !slices.Contains(s.cfg.Issuers, o.Issuer) {
		return fault.New(fault.NotFound, "no such issuer")
	}
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err := officersOf(tx)
		if err != nil {
			return err
		}
		_, err = all.With(o)
		return err
	})
}

func changeEnrol(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	o, err := approval.EnrolledBy(p)
	if err != nil {
		return err
	}
	all, err := officersOf(rows)
	if err != nil {
		return err
	}
	if _, err := all.With(o); err != nil {
		return err
	}
	return put(rows, officerRef(o.Name), p.Expected, o)
}

func checkRemove(ctx context.Context, s *Service, p approval.Proposal) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err := removed(tx, p)
		return err
	})
}

func changeRemove(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	o, err := removed(rows, p)
	if err != nil {
		return err
	}
	return put(rows, officerRef(o.Name), p.Expected, o)
}

// removed returns the officer that a proposal removes, as it is after that.
func removed(tx store.Rows, p approval.Proposal) (o approval.Officer, err error) {
	name, err := approval.RemovedBy(p)
	if err != nil {
		return o, err
	}
	all, err := officersOf(tx)
	if err != nil {
		return o, err
	}
	ps, err := policiesOf(tx)
	if err != nil {
		return o, err
	}
	all, err = all.Without(name, ps)
	return all[name], err
}

func policyRow(c Case) (store.Ref, error) {
	return policyRef(strings.TrimPrefix(c.Proposal.Object, "policies/")), nil
}

func checkPolicy(ctx context.Context, s *Service, p approval.Proposal) error {
	set, err := approval.SetBy(p)
	if err != nil {
		return err
	}
	if !slices.Contains(approval.Controlled(), set.Operation) && set.Operation != approval.DefaultPolicy {
		return fault.New(fault.InvalidInput, "no operation of this name needs approvals")
	}
	return s.cfg.Log.View(ctx, func(tx store.Rows) error { return meetable(tx, set) })
}

// meetable refuses a policy that the officers there are could never meet.
func meetable(tx store.Rows, set approval.Policy) error {
	all, err := officersOf(tx)
	if err != nil {
		return err
	}
	if n := all.Everywhere(); n < set.K+1 {
		return fault.New(fault.Conflict, fmt.Sprintf("%d approvals and a proposer are more than the %d officers for every issuer", set.K, n))
	}
	return nil
}

func changePolicy(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	set, err := approval.SetBy(p)
	if err == nil {
		err = meetable(rows, set)
	}
	if err != nil {
		return err
	}
	return put(rows, policyRef(set.Operation), p.Expected, set)
}

// cardOf splits the object of a proposal about a card.
func cardOf(p approval.Proposal) (id string, err error) {
	id, ok := strings.CutPrefix(p.Object, "issuers/"+p.Issuer+"/cards/")
	if !ok || p.Issuer == "" || strings.Contains(id, "/") {
		return "", fault.New(fault.InvalidInput, "a card is named as issuers/ISSUER/cards/KDD, in its issuer")
	}
	return id, nil
}

// kddOf returns the key diversification data that the object of a new proposal names.
func kddOf(p approval.Proposal) ([]byte, error) {
	id, err := cardOf(p)
	if err != nil {
		return nil, err
	}
	return parseKDD(id)
}

func parseKDD(text string) ([]byte, error) {
	kdd, err := hex.DecodeString(text)
	if err != nil || len(kdd) != kddBytes {
		return nil, errNotKDD
	}
	return kdd, nil
}

// hideCard puts the card's pseudonym in the place of its key diversification
// data, because proposals stand in the log.
func hideCard(ctx context.Context, s *Service, c *Case) error {
	p := &c.Proposal
	kdd, err := kddOf(*p)
	if err != nil {
		return err
	}
	ref, err := s.cardRef(ctx, p.Issuer, kdd)
	if err != nil {
		return err
	}
	var card Card
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, ref, &card); return err })
	if err == nil && !card.Quarantined {
		err = fault.New(fault.Conflict, "the card is not in quarantine")
	}
	if err != nil {
		return err
	}
	return s.hide(ctx, c, ref, card.Sealed, kdd)
}

// hide has a case name a card by its pseudonym, and keep its row and its seal.
func (s *Service) hide(ctx context.Context, c *Case, ref store.Ref, sealed string, kdd []byte) error {
	alias, err := s.pseudonym(ctx, c.Proposal.Issuer, kdd)
	c.Proposal.Object = "issuers/" + c.Proposal.Issuer + "/cards/" + alias
	c.Card, c.Sealed, c.Subject = ref.ID, sealed, strings.ToUpper(hex.EncodeToString(kdd))
	return err
}

func releaseRow(c Case) (store.Ref, error) { return rowOfCard(c.Proposal.Issuer, c.Card), nil }

func checkRelease(_ context.Context, _ *Service, p approval.Proposal) error {
	_, err := cardOf(p)
	return err
}

func changeRelease(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	var kept Case
	if _, err := need(rows, caseRef(p.ID), &kept); err != nil {
		return err
	}
	ref, err := releaseRow(kept)
	if err != nil {
		return err
	}
	var c Card
	n, err := need(rows, ref, &c)
	if err != nil {
		return err
	}
	c.released()
	c.Nonce = newID()
	return put(rows, ref, n, c)
}

func haltRow(c Case) (store.Ref, error) {
	if c.Proposal.Object != haltObject || c.Proposal.Issuer != "" {
		return store.Ref{}, fault.New(fault.InvalidInput, "what is resumed is "+haltObject+", for every issuer")
	}
	return haltRef, nil
}

func checkResume(ctx context.Context, s *Service, _ approval.Proposal) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		var h Halt
		_, err := get(tx, haltRef, &h)
		if err == nil && !h.Halted {
			err = fault.New(fault.Conflict, "the service is not halted")
		}
		return err
	})
}

func changeResume(_ *Service, rows store.Rows, p approval.Proposal, _ any) error {
	return put(rows, haltRef, p.Expected, Halt{})
}
