package kms

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"cardkms/derive/emv"
	"cardkms/kms/approval"
	"cardkms/kms/store"
)

// Executors returns the operations that need an approved proposal, sorted.
func Executors() []string { return slices.Sorted(maps.Keys(executors)) }

// WithAct adds an executor whose object is a policy's row and which acts first.
func WithAct(t testing.TB, operation string, act func() error) {
	executors[operation] = executor{
		row:   func(c Case) (store.Ref, error) { return policyRef(c.Proposal.Object), nil },
		check: func(context.Context, *Service, approval.Proposal) error { return nil },
		act:   func(context.Context, *Service, approval.Proposal) (any, error) { return "acted", act() },
		change: func(_ *Service, rows store.Rows, p approval.Proposal, acted any) error {
			if acted != "acted" {
				panic("kms: change without act")
			}
			return put(rows, policyRef(p.Object), p.Expected, approval.Policy{Operation: p.Object, K: approval.KMin})
		},
	}
	t.Cleanup(func() { delete(executors, operation) })
}

// CardRow names the row of a card.
func (s *Service) CardRow(ctx context.Context, issuer string, kdd []byte) (store.Ref, error) {
	return s.cardRef(ctx, issuer, kdd)
}

// SetOTACounter writes what would take a card's counter years.
func (s *Service) SetOTACounter(ctx context.Context, c OTACard, counter uint64) error {
	ref, err := s.otaName(ctx, c)
	if err != nil {
		return err
	}
	_, err = s.intendAnd(ctx, console(KeyLoad, "test", "test"), func(tx store.Rows) error {
		var row otaCounters
		n, err := get(tx, ref, &row)
		if err != nil {
			return err
		}
		row.Counter = counter
		return put(tx, ref, n, row)
	})
	return err
}

// Cryptogram computes the cryptogram that a transaction asks for.
func (s *Service) Cryptogram(ctx context.Context, in Transaction) ([]byte, error) {
	_, t, err := s.begin(ctx, Request{Caller: Caller{Role: UpdateServer, Cards: AllCards()}}, EMVVerify, in)
	if err != nil {
		return nil, err
	}
	return emv.Cryptogram(ctx, t.token, t.mac, t.profile.Padding, t.Data)
}

// ForgetHealth has the next caller of Health look anew.
func (s *Service) ForgetHealth() { s.health.at = time.Time{} }

// HostChallenge chooses the host challenge of a script that is prepared.
func (s *Service) HostChallenge(ctx context.Context, in PrepareInput, at CardAt) ([]byte, error) {
	job, err := s.preparation(ctx, in)
	if err != nil {
		return nil, err
	}
	ref, err := s.cardRef(ctx, in.Issuer, at.KDD[:])
	if err != nil {
		return nil, err
	}
	return s.hostChallenge(ctx, job, at, ref, 16)
}
