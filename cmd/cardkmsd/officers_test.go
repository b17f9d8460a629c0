package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/audit"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
)

// signed signs a decision with the key of an officer of the set-up.
func (s *site) signed(name string, p api.Proposal, d approval.Decision) []byte {
	s.t.Helper()
	file, err := os.ReadFile(filepath.Join(s.dir, "officers", name))
	s.must("", err)
	passphrase, err := os.ReadFile(filepath.Join(s.dir, "officers", "passphrase"))
	s.must("", err)
	k, err := officerkey.Open(file, passphrase)
	s.must("", err)
	return ed25519.Sign(k, approval.Statement(d, approval.DigestOf([]byte(p.Encoding))))
}

// TestOfficers halts and resumes a real server with the officers of the
// development set-up, and has an auditor judge the log.
func TestOfficers(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	ada, bob, cyd := s.client("security-officer"), s.client("security-officer-bob"), s.client("security-officer-cyd")
	_, err := s.client("operator").Halt(ctx)
	s.must("", err)
	var problem *api.Problem
	if _, err := s.updateServer.OpenChannel(ctx, "demo", api.OpenChannel{Key: "isd"}); !errors.As(err, &problem) || problem.Code != api.Halted {
		t.Errorf("a channel while halted: %v", err)
	}
	p, err := ada.Propose(ctx, api.Propose{Operation: "system.resume", Object: "system/halt"})
	s.must("", err)
	_, err = bob.Approve(ctx, p.ID, s.signed("bob", p, approval.Approve))
	s.must("", err)
	if _, err := ada.Execute(ctx, p.ID); !errors.As(err, &problem) || problem.Code != api.ApprovalRequired {
		t.Errorf("with one approval: %v", err)
	}
	_, err = cyd.Approve(ctx, p.ID, s.signed("cyd", p, approval.Approve))
	s.must("", err)
	p, err = ada.Execute(ctx, p.ID)
	if err != nil || p.State != api.ProposalExecuted {
		t.Errorf("%s, %v", p.State, err)
	}
	s.use(1)
	s.judge()
	for _, secret := range []string{"passphrase", "PRIVATE"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the server's log says %q", secret)
		}
	}
	s.stop()
	again := []string{"officers", "init", "--config", s.config(), "--yes"}
	for _, n := range []string{"x", "y", "z"} {
		file := filepath.Join(t.TempDir(), n)
		_, line, err := officerkey.New(n, []byte("p"))
		s.must("", err)
		s.must("", os.WriteFile(file, line, 0o600))
		again = append(again, "--officer", n+"="+devDomain+devOfficerPath+n+"="+file)
	}
	if out, err := s.cardkmsd("", again...); err == nil || !strings.Contains(out, "there are officers") {
		t.Errorf("officers a second time: %v\n%s", err, out)
	}
	if out, err := s.cardkmsd("", again[:len(again)-2]...); err == nil || !strings.Contains(out, "at least k+1 officers") {
		t.Errorf("two officers: %v\n%s", err, out)
	}
}

// judge replays the log as an auditor does: one execution, proven.
func (s *site) judge() {
	s.t.Helper()
	l, err := s.client("auditor").AuditEntries(context.Background(), 0, 1000)
	s.must("", err)
	var r approval.Replay
	for _, text := range l.Entries {
		e, err := audit.ParseEntry([]byte(text.Text))
		s.must("", err)
		r.Add(approval.Record{
			Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Issuer: e.Issuer, Operation: e.Operation,
			Object: e.Object, Outcome: e.Outcome, Detail: e.Detail,
		})
	}
	if r.Executed != 1 || len(r.Unproven) != 0 {
		s.t.Errorf("%d executions are proven; not: %v", r.Executed, r.Unproven)
	}
}
