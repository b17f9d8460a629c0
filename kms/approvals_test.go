package kms_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/store/storetest"
	"cardkms/softhsm/cardsim"
)

func officerKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func officerNamed(name string) approval.Officer {
	return approval.Officer{
		Name: name, Identity: "spiffe://test/role/security-officer/" + name,
		Public: officerKey(name).Public().(ed25519.PublicKey), State: approval.Active,
	}
}

// enrol makes the first officers, with k=2.
func (h *harness) enrol(names ...string) {
	h.t.Helper()
	var first []approval.Officer
	for _, n := range names {
		first = append(first, officerNamed(n))
	}
	h.must(h.service.EnrolFirst(h.ctx, "test", "", first, 2))
}

// officer is a request of an officer for every issuer.
func (h *harness) officer(name string) kms.Request {
	r := h.as(kms.SecurityOfficer)
	r.Caller.ID, r.Caller.Issuer = officerNamed(name).Identity, ""
	return r
}

func (h *harness) propose(name string, in kms.ProposeInput) (kms.Case, error) {
	if in.Life == 0 {
		in.Life = time.Hour
	}
	return h.service.Propose(h.ctx, h.officer(name), in)
}

func signature(c kms.Case, name string, d approval.Decision) []byte {
	digest, err := c.Proposal.Digest()
	if err != nil {
		panic(err)
	}
	return ed25519.Sign(officerKey(name), approval.Statement(d, digest))
}

func (h *harness) decide(c kms.Case, name string, d approval.Decision) (kms.Case, error) {
	return h.service.Decide(h.ctx, h.officer(name), kms.DecideInput{ID: c.Proposal.ID, Decision: d, Signature: signature(c, name, d)})
}

func (h *harness) approve(c kms.Case, names ...string) {
	h.t.Helper()
	for _, n := range names {
		_, err := h.decide(c, n, approval.Approve)
		h.must(err)
	}
}

func (h *harness) execute(c kms.Case) (kms.Case, error) {
	return h.service.Execute(h.ctx, h.officer("ada"), c.Proposal.ID)
}

// approved proposes something as ada and has bob and cyd approve it.
func (h *harness) approved(in kms.ProposeInput) kms.Case {
	h.t.Helper()
	c, err := h.propose("ada", in)
	h.must(err)
	h.approve(c, "bob", "cyd")
	return c
}

// whole does all of it.
func (h *harness) whole(in kms.ProposeInput) {
	h.t.Helper()
	_, err := h.execute(h.approved(in))
	h.must(err)
}

func setPolicy(operation, k string) kms.ProposeInput {
	return kms.ProposeInput{Operation: approval.PolicySet, Object: "policies/" + operation, Params: map[string]string{"k": k}}
}

// proven replays the whole log as an auditor does.
func (h *harness) proven(executed int) {
	h.t.Helper()
	var r approval.Replay
	entries, err := h.ledger.Entries(h.ctx, 0, int(h.ledger.Size()))
	h.must(err)
	for _, e := range entries {
		r.Add(approval.Record{
			Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Issuer: e.Issuer, Operation: e.Operation,
			Object: e.Object, Outcome: e.Outcome, Detail: e.Detail,
		})
	}
	if r.Executed != executed || len(r.Unproven) > 0 {
		h.t.Errorf("%d executions are proven, want %d; unproven: %v", r.Executed, executed, r.Unproven)
	}
}

// TestControlled: what the auditor's program takes for an execution is what the
// service can execute.
func TestControlled(t *testing.T) {
	listed := approval.Controlled()
	slices.Sort(listed)
	if diff := cmp.Diff(kms.Executors(), listed); diff != "" {
		t.Errorf("executors and approval.Controlled differ: %s", diff)
	}
}

func TestEnrolFirst(t *testing.T) {
	h := newHarness(t)
	two := []approval.Officer{officerNamed("ada"), officerNamed("bob")}
	h.want("two for k=2", h.service.EnrolFirst(h.ctx, "test", "", two, 2), fault.InvalidInput)
	h.want("k=1", h.service.EnrolFirst(h.ctx, "test", "", two, 1), fault.InvalidInput)
	_, err := h.propose("ada", setPolicy("default", "2"))
	h.want("nobody proposes", err, fault.Forbidden)
	h.enrol("ada", "bob", "cyd")
	if e := h.lastEntry(); e.Operation != "officer.init" || e.Detail["k"] != "2" || e.Detail["by"] != "test" || !strings.HasPrefix(e.Detail["o2"], "cyd:") {
		t.Errorf("%+v", e)
	}
	again := []approval.Officer{officerNamed("eve"), officerNamed("mal"), officerNamed("dan")}
	h.want("a second time", h.service.EnrolFirst(h.ctx, "test", "", again, 2), fault.Conflict)
	if got := h.outcomes(1)[0]; got != "officer.init=conflict" {
		t.Error(got)
	}
}

// TestRelease lifts a quarantine. The log names the card by its pseudonym only, and
// proves the approvals.
func TestRelease(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	card := h.cardOf([10]byte{7, 7, 7, 7, 7, 7, 7, 7, 7, 1})
	h.quarantine(card)
	const kdd = "07070707070707070701"
	in := kms.ProposeInput{Issuer: h.issuer, Operation: "card.release", Object: "issuers/" + h.issuer + "/cards/" + kdd}
	other := in
	other.Object = "issuers/" + h.issuer + "/cards/00000000000000000009"
	_, err := h.propose("ada", other)
	h.want("no such card", err, fault.NotFound)
	c := h.approved(in)
	if c.Subject != kdd || strings.Contains(c.Proposal.Object, kdd) || c.Proposal.Expected < 1 {
		t.Errorf("%+v", c)
	}
	c, err = h.execute(c)
	h.must(err)
	if c.Now != approval.Executed || c.By != "ada" {
		t.Errorf("%+v", c)
	}
	e := h.lastEntry()
	if e.Operation != "card.release" || e.Object != c.Proposal.Object || e.Card == "" || !strings.HasSuffix(e.Object, e.Card) || e.Detail["proposal"] != c.Proposal.ID {
		t.Errorf("%+v", e)
	}
	_, err = h.authenticate(card)
	h.must(err)
	_, err = h.propose("ada", in)
	h.want("not in quarantine", err, fault.Conflict)
	h.proven(1)
	encoded, err := h.ledger.Leaves(h.ctx, 0, int(h.ledger.Size()))
	h.must(err)
	for _, b := range encoded {
		if strings.Contains(string(b), kdd) {
			t.Errorf("an entry names the card:\n%s", b)
		}
	}
}

// quarantine gives three wrong answers for a card.
func (h *harness) quarantine(card *cardsim.Card) {
	h.t.Helper()
	for range h.profile.Attempts {
		id, answer, err := h.connect(card)
		h.must(err)
		answer[25] ^= 1
		_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
		h.want("a wrong cryptogram", err, fault.ProofFailed)
	}
}

// TestOfficersChange enrols and removes by proposals, under a policy that changes.
func TestOfficersChange(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	remove := kms.ProposeInput{Operation: approval.OfficerRemove, Object: "officers/bob"}
	_, err := h.propose("ada", remove)
	h.want("one of three", err, fault.Conflict)
	enrol := kms.ProposeInput{Operation: approval.OfficerEnrol, Object: "officers/dan", Params: approval.EnrolParams(officerNamed("dan"))}
	twice := enrol
	twice.Object = "officers/dan2"
	twice.Params = approval.EnrolParams(officerNamed("bob"))
	_, err = h.propose("ada", twice)
	h.want("bob under two names", err, fault.Conflict)
	h.whole(enrol)
	three, err := h.propose("ada", setPolicy("card.release", "3"))
	h.must(err)
	h.approve(three, "bob", "cyd")
	_, err = h.execute(three)
	h.want("three asked for by two", err, fault.ApprovalRequired)
	h.approve(three, "dan")
	_, err = h.execute(three)
	h.must(err)
	strict, err := h.propose("ada", setPolicy("card.release", "2"))
	h.must(err)
	if strict.Required != 3 {
		t.Errorf("weakening needs %d approvals", strict.Required)
	}
	h.approve(strict, "bob", "cyd")
	_, err = h.execute(strict)
	h.want("weakened by two", err, fault.ApprovalRequired)
	h.approve(strict, "dan")
	_, err = h.execute(strict)
	h.must(err)
	h.want("not strict any more", h.removeBob(remove), fault.OK)
	_, err = h.decide(strict, "bob", approval.Approve)
	h.want("bob after that", err, fault.Forbidden)
	control, err := h.service.Control(h.ctx, h.officer("ada"))
	h.must(err)
	if len(control.Officers) != 4 || control.Officers[1].State != approval.Removed || len(control.Policies) != 2 {
		t.Errorf("%+v", control)
	}
	h.proven(4)
}

func (h *harness) removeBob(in kms.ProposeInput) error {
	c, err := h.propose("ada", in)
	if err != nil {
		return err
	}
	h.approve(c, "cyd", "dan")
	_, err = h.execute(c)
	return err
}

// TestAttacksOnApprovals: each of these must not carry anything out.
func TestAttacksOnApprovals(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd", "dan")
	c, err := h.propose("ada", setPolicy("default", "3"))
	h.must(err)
	other, err := h.propose("ada", setPolicy("card.release", "2"))
	h.must(err)
	send := func(as string, c kms.Case, d approval.Decision, sig []byte) error {
		_, err := h.service.Decide(h.ctx, h.officer(as), kms.DecideInput{ID: c.Proposal.ID, Decision: d, Signature: sig})
		return err
	}
	yes := approval.Approve
	h.want("by the proposer", send("ada", c, yes, signature(c, "ada", yes)), fault.Forbidden)
	h.want("self-made", send("eve", c, yes, signature(c, "eve", yes)), fault.Forbidden)
	h.want("forged", send("bob", c, yes, signature(c, "eve", yes)), fault.ProofFailed)
	h.want("none", send("bob", c, yes, nil), fault.ProofFailed)
	h.want("of another proposal", send("bob", c, yes, signature(other, "bob", yes)), fault.ProofFailed)
	h.want("another decision", send("bob", c, yes, signature(c, "bob", approval.Reject)), fault.ProofFailed)
	h.want("another's identity", send("cyd", c, yes, signature(c, "bob", yes)), fault.ProofFailed)
	h.want("honest", send("bob", c, yes, signature(c, "bob", yes)), fault.OK)
	h.want("twice", send("bob", c, yes, signature(c, "bob", yes)), fault.Conflict)
	_, err = h.execute(c)
	h.want("with one", err, fault.ApprovalRequired)
	if got := h.outcomes(1)[0]; got != "approval.execute=approval_required" {
		t.Error(got)
	}
	h.approve(c, "cyd")
	h.advance(2 * time.Hour)
	_, err = h.execute(c)
	h.want("after expiry", err, fault.ApprovalExpired)
	h.want("approved after expiry", send("dan", c, yes, signature(c, "dan", yes)), fault.ApprovalExpired)

	rejected := h.approved(setPolicy("card.release", "2"))
	_, err = h.decide(rejected, "bob", approval.Reject)
	h.must(err)
	_, err = h.execute(rejected)
	h.want("rejected", err, fault.ApprovalVoid)

	void := h.approved(setPolicy("card.release", "2"))
	h.whole(setPolicy("card.release", "2"))
	_, err = h.execute(void)
	h.want("the object changed", err, fault.ApprovalVoid)

	removed := h.approved(setPolicy("system.resume", "2"))
	h.whole(kms.ProposeInput{Operation: approval.OfficerRemove, Object: "officers/dan"})
	_, err = h.service.Execute(h.ctx, h.officer("dan"), removed.Proposal.ID)
	h.want("executed by a removed officer", err, fault.Forbidden)
	used := h.approved(setPolicy("officer.enrol", "2"))
	_, err = h.execute(used)
	h.must(err)
	_, err = h.execute(used)
	h.want("replayed", err, fault.ApprovalVoid)

	bound := h.officer("ada")
	bound.Caller.Issuer = h.issuer
	_, err = h.service.Proposal(h.ctx, bound, used.Proposal.ID)
	h.want("every issuer's, seen by one", err, fault.NotFound)
	_, err = h.service.Proposal(h.ctx, h.officer("ada"), "../x")
	h.want("no id", err, fault.NotFound)
	h.proven(3)
}

// TestRemovedMeanwhile: an approval of an officer who was removed before the
// execution does not count.
func TestRemovedMeanwhile(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd", "dan")
	c := h.approved(setPolicy("card.release", "2"))
	remove, err := h.propose("ada", kms.ProposeInput{Operation: approval.OfficerRemove, Object: "officers/bob"})
	h.must(err)
	h.approve(remove, "cyd", "dan")
	_, err = h.execute(remove)
	h.must(err)
	_, err = h.execute(c)
	h.want("one of two is left", err, fault.ApprovalRequired)
	h.approve(c, "dan")
	_, err = h.execute(c)
	h.must(err)
	h.proven(2)
}

// TestRestoredProposal puts a used proposal back: its row, and then the whole
// database. Neither lets it be used again.
func TestRestoredProposal(t *testing.T) {
	kept := &keeper{}
	h := newHarness(t, func(h *harness) {
		h.anchors = []ledger.Anchor{{Name: "test", Keeper: kept, Every: time.Hour}}
	})
	h.enrol("ada", "bob", "cyd")
	c := h.approved(setPolicy("card.release", "2"))
	ref := store.Ref{Kind: "proposal", ID: c.Proposal.ID}
	var row store.Row
	h.must(h.db.View(h.ctx, func(tx store.Tx) (err error) { row, err = tx.Get(ref); return err }))
	h.stop()
	past, err := os.ReadFile(h.path)
	h.must(err)
	h.start()
	_, err = h.execute(c)
	h.must(err)
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error {
		used, err := tx.Get(ref)
		if err != nil {
			return err
		}
		row.Version = used.Version + 1 // as open as it was, and the newest
		return tx.Put(row)
	}))
	_, err = h.execute(c)
	h.want("its row is put back", err, fault.ObjectTampered)
	h.stop()
	h.must(os.WriteFile(h.path, past, 0o600))
	for _, f := range []string{"-wal", "-shm"} {
		_ = os.Remove(h.path + f)
	}
	db, err := sqlite.Open(h.ctx, h.path)
	h.must(err)
	v, err := audit.NewVerifier(h.vkey)
	h.must(err)
	_, err = ledger.Open(h.ctx, ledger.Config{
		Store: db, MAC: h.rowMAC, Signer: h.signer, Verifier: v, Origin: "test/audit", Now: h.clock, CheckpointEvery: -1, GuardEvery: -1, Anchors: h.anchors,
	})
	if !errors.Is(err, ledger.ErrTampered) {
		t.Errorf("the older database opens: %v", err)
	}
	h.must(db.Close())
	kept.note = nil // as two officers do with "cardkmsd restore", so that the harness stops
	h.start()
}

func (h *harness) rowMAC(ctx context.Context, m []byte) ([]byte, error) {
	return h.token.MAC(ctx, derive.FromRoot(h.state), m)
}

// TestExecuteOnce fails the write of an execution once before and once after its
// effect: it happens exactly once, and the next call says what became of it.
func TestExecuteOnce(t *testing.T) {
	for _, mode := range []storetest.Failure{storetest.NotApplied, storetest.AnswerLost} {
		for at := 1; at <= 2; at++ { // intent, outcome
			t.Run(fmt.Sprint(mode, at), func(t *testing.T) {
				var faulty *storetest.Faulty
				h := newHarness(t, func(h *harness) {
					db, err := sqlite.Open(h.ctx, h.path)
					h.must(err)
					faulty = storetest.NewFaulty(db)
					h.db = faulty
				})
				acts := 0
				kms.WithAct(t, "test.act", func() error { acts++; return nil })
				h.enrol("ada", "bob", "cyd")
				c := h.approved(kms.ProposeInput{Operation: "test.act", Object: "object"})
				faulty.Fail(at, mode)
				_, first := h.execute(c)
				_, second := h.execute(c)
				if !faulty.Fired() {
					t.Fatal("nothing failed")
				}
				if first != nil && second != nil && fault.CodeOf(second) != fault.ApprovalVoid || first == nil && fault.CodeOf(second) != fault.ApprovalVoid {
					t.Errorf("first %v, second %v", first, second)
				}
				got, err := h.service.Proposal(h.ctx, h.officer("ada"), c.Proposal.ID)
				h.must(err)
				done := 0
				entries, err := h.ledger.Entries(h.ctx, 0, int(h.ledger.Size()))
				h.must(err)
				for _, e := range entries {
					if e.Operation == "test.act" && e.Outcome == audit.OutcomeOK {
						done++
					}
				}
				if got.Now != approval.Executed || done != 1 || acts < 1 || acts > 2 {
					t.Errorf("%s, executed %d times, acted %d times", got.Now, done, acts)
				}
			})
		}
	}
}

// TestActFails: what an act could not do leaves the proposal approved and says so.
func TestActFails(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	down := errors.New("down")
	kms.WithAct(t, "test.act", func() error { return down })
	c := h.approved(kms.ProposeInput{Operation: "test.act", Object: "object"})
	_, err := h.execute(c)
	if !errors.Is(err, down) {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"test.act=pending", "test.act=internal"}, h.outcomes(2)); diff != "" {
		t.Error(diff)
	}
	down = nil
	_, err = h.execute(c)
	h.must(err)
}

// TestExecuteOnNodes: while one node executes on an object no other does; when it is done,
// or could not, another one may at once; and when it takes too long, another one takes over.
func TestExecuteOnNodes(t *testing.T) {
	h := newHarness(t)
	node := func(name string) *kms.Service {
		cfg := h.config()
		cfg.Node = name
		s, err := kms.New(cfg)
		h.must(err)
		t.Cleanup(s.Close)
		return s
	}
	a, b := node("a"), node("b")
	h.enrol("ada", "bob", "cyd")
	in := kms.ProposeInput{Operation: "test.act", Object: "object"}
	var act func() error
	kms.WithAct(t, "test.act", func() error { return act() })
	execute := func(s *kms.Service, c kms.Case) error {
		_, err := s.Execute(h.ctx, h.officer("ada"), c.Proposal.ID)
		return err
	}
	nothing := func() error { return nil }
	down := errors.New("down")

	c := h.approved(in)
	act = func() error {
		act = nothing
		h.want("on another node meanwhile", execute(b, c), fault.Conflict)
		return down
	}
	if err := execute(a, c); !errors.Is(err, down) {
		t.Fatal(err)
	}
	h.must(execute(b, c)) // though a minute has not passed

	c = h.approved(in)
	act = func() error {
		act = nothing
		h.advance(time.Minute)
		h.must(execute(b, c))
		return nil
	}
	h.want("what another node took over", execute(a, c), fault.Conflict)
	if diff := cmp.Diff([]string{"test.act=pending", "test.act=pending", "test.act=ok", "test.act=conflict"}, h.outcomes(4)); diff != "" {
		t.Error(diff)
	}
}

// TestExecuteConcurrently: many officers at once carry a proposal out once.
func TestExecuteConcurrently(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	var mu sync.Mutex
	acts, done := 0, 0
	kms.WithAct(t, "test.act", func() error { mu.Lock(); defer mu.Unlock(); acts++; return nil })
	c := h.approved(kms.ProposeInput{Operation: "test.act", Object: "object"})
	var all sync.WaitGroup
	for range 8 {
		r := h.officer("ada")
		all.Go(func() {
			_, err := h.service.Execute(context.Background(), r, c.Proposal.ID)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if code := fault.CodeOf(err); code != fault.Conflict && code != fault.ApprovalVoid {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if acts != 1 || done != 1 {
		t.Errorf("%d acts, %d executions", acts, done)
	}
}

// TestHalt: one stops, two resume, and nothing but that starts it again.
func TestHalt(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	resume := kms.ProposeInput{Operation: "system.resume", Object: "system/halt"}
	_, err = h.propose("ada", resume)
	h.want("not halted", err, fault.Conflict)
	operator := h.as(kms.Operator)
	operator.Caller.Issuer = ""
	h.must(h.service.Halt(h.ctx, operator))
	_, err = h.authenticate(card)
	h.want("a channel", err, fault.Halted)
	_, err = h.ask(card, id, plain("80CA006600"))
	h.want("an open channel", err, fault.Halted)
	h.restart()
	_, err = h.authenticate(card)
	h.want("after a restart", err, fault.Halted)
	c := h.approved(resume)
	h.must(h.service.Halt(h.ctx, operator)) // changes nothing, so the proposal stays
	_, err = h.execute(c)
	h.must(err)
	_, err = h.authenticate(card)
	h.must(err)
	h.must(h.service.Halt(h.ctx, h.officer("bob")))
	_, err = h.execute(c)
	h.want("resumed by the old proposal", err, fault.ApprovalVoid)
	_, err = h.authenticate(card)
	h.want("halted again", err, fault.Halted)
	h.proven(1)
}

// TestParams: a parameter that an operation does not have is refused where somebody would
// sign it, and one that it has is not.
func TestParams(t *testing.T) {
	h := newHarness(t)
	for operation, has := range map[string]string{
		approval.CardRelease: "reason", approval.ClientResume: "reason", approval.SystemResume: "reason",
		approval.KeyActivate: "reason", approval.KeyCompromise: "reason", approval.KeyPlanMove: "reason", approval.KeyUndestroy: "reason",
		approval.KeyDeactivate: "exception", approval.KeyDestroy: "days",
	} {
		// No object is right here: what matters is which refusal comes first.
		in := kms.ProposeInput{Issuer: h.issuer, Operation: operation, Object: "x", Params: map[string]string{has: "7", "usage": "gp-scp03"}}
		_, err := h.propose("ada", in)
		if fault.CodeOf(err) != fault.InvalidInput || !strings.Contains(err.Error(), operation+" has no other parameters than ") || !strings.Contains(err.Error(), has) {
			t.Errorf("%s with usage: %v", operation, err)
		}
		delete(in.Params, "usage")
		if _, err = h.propose("ada", in); err == nil || strings.Contains(err.Error(), "parameters") {
			t.Errorf("%s with %s: %v", operation, has, err)
		}
	}
}
