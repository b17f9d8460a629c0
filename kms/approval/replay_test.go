package approval_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"cardkms/kms/approval"
)

// history is a log of dual control, as the service writes it.
type history struct {
	t       *testing.T
	records []approval.Record
	at      time.Time
	ids     int
}

func (h *history) add(actor, issuer, operation, object string, detail map[string]string) *approval.Record {
	h.at = h.at.Add(time.Second)
	h.records = append(h.records, approval.Record{
		Sequence: int64(len(h.records)), Time: h.at, Actor: officer(actor).Identity, Issuer: issuer, Operation: operation,
		Object: object, Outcome: "ok", Detail: detail,
	})
	return &h.records[len(h.records)-1]
}

func begun(t *testing.T) *history {
	h := &history{t: t, at: start}
	h.add("service", "", "officer.init", "officers", approval.FirstDetail([]approval.Officer{officer("ada"), officer("bob"), officer("cyd")}, 2))
	return h
}

// propose writes a proposal of ada.
func (h *history) propose(p approval.Proposal) approval.Proposal {
	h.t.Helper()
	h.ids++
	p.ID = strings.Repeat("0", 30) + hex.EncodeToString([]byte{byte(h.ids)})
	p.Proposer, p.Created, p.Expires = "ada", h.at, h.at.Add(time.Hour)
	encoding, err := p.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	h.add("ada", p.Issuer, "approval.propose", "proposals/"+p.ID, approval.ProposeDetail(encoding))
	return p
}

func (h *history) approve(p approval.Proposal, names ...string) {
	for _, n := range names {
		h.add(n, p.Issuer, "approval.approve", "proposals/"+p.ID, approval.DecideDetail(n, sign(p, n, approval.Approve).Signature))
	}
}

func (h *history) execute(p approval.Proposal) *approval.Record {
	return h.add("ada", p.Issuer, p.Operation, p.Object, approval.ExecuteDetail(p.ID, "ada"))
}

// whole does all of it.
func (h *history) whole(p approval.Proposal, names ...string) {
	p = h.propose(p)
	h.approve(p, names...)
	h.execute(p)
}

func (h *history) replay(executed, unproven int) {
	h.t.Helper()
	var r approval.Replay
	for _, e := range h.records {
		r.Add(e)
	}
	if r.Executed != executed || len(r.Unproven) != unproven {
		h.t.Errorf("%d executions are proven and %v are not, want %d and %d", r.Executed, r.Unproven, executed, unproven)
	}
	for _, u := range r.Unproven {
		if !strings.Contains(u.Error(), "entry ") || u.Sequence >= int64(len(h.records)) {
			h.t.Errorf("%v", &u)
		}
	}
}

func enrol(name string) approval.Proposal {
	return approval.Proposal{Operation: approval.OfficerEnrol, Object: "officers/" + name, Params: approval.EnrolParams(officer(name))}
}

func setK(operation, k string) approval.Proposal {
	return approval.Proposal{Operation: approval.PolicySet, Object: "policies/" + operation, Params: map[string]string{"k": k}}
}

// TestReplay follows officers and policies that change through a log.
func TestReplay(t *testing.T) {
	h := begun(t)
	h.whole(example(), "bob", "cyd")
	h.whole(enrol("dan"), "bob", "cyd")
	h.whole(setK("card.release", "3"), "bob", "cyd", "dan")
	h.replay(3, 0)
	h.whole(example(), "bob", "cyd") // three are needed now
	h.replay(3, 1)
	h.whole(example(), "bob", "cyd", "dan")
	h.whole(setK("card.release", "2"), "bob", "cyd") // to weaken it too
	h.replay(4, 2)
	h.whole(setK("card.release", "2"), "bob", "cyd", "dan")
	p := h.propose(example())
	h.approve(p, "bob", "cyd")
	h.whole(approval.Proposal{Operation: approval.OfficerRemove, Object: "officers/bob"}, "cyd", "dan")
	h.execute(p) // bob does not count any more
	h.replay(6, 3)
}

// TestReplayLegacy: an exception for a deprecated protocol lasts at most a year, also one
// that enough officers signed.
func TestReplayLegacy(t *testing.T) {
	h := begun(t)
	exception := func(until time.Time) approval.Proposal {
		return approval.Proposal{
			Issuer: "acme", Operation: approval.KeyAllowLegacy, Object: "issuers/acme/keys/old/versions/1",
			Params: map[string]string{"until": until.Format(time.DateOnly), "reason": "cards-expire"},
		}
	}
	h.whole(exception(h.at.AddDate(1, 0, 0)), "bob", "cyd")
	h.replay(1, 0)
	h.whole(exception(h.at), "bob", "cyd") // today
	h.replay(2, 0)
	h.whole(exception(h.at.AddDate(1, 0, 1)), "bob", "cyd")
	h.whole(exception(h.at.AddDate(0, 0, -1)), "bob", "cyd")
	h.whole(exception(h.at.AddDate(0, 1, 0)), "bob")
	h.replay(2, 3)
}

// TestReplayProfile: a card profile is registered by a proposal that signs its digest, or
// in a ceremony that officers signed, and is withdrawn with a reason.
func TestReplayProfile(t *testing.T) {
	h := begun(t)
	about := func(operation string, params map[string]string) approval.Proposal {
		return approval.Proposal{Issuer: "acme", Operation: operation, Object: "issuers/acme/profiles/default", Params: params}
	}
	h.whole(about(approval.ProfileRegister, map[string]string{"sha256": strings.Repeat("0a", 32)}), "bob", "cyd")
	h.whole(about(approval.ProfileWithdraw, map[string]string{"reason": "recalled"}), "bob", "cyd")
	h.replay(2, 0)
	h.whole(about(approval.ProfileRegister, map[string]string{"sha256": strings.Repeat("0A", 32)}), "bob", "cyd")
	h.whole(about(approval.ProfileRegister, map[string]string{"sha256": "0a"}), "bob", "cyd")
	h.whole(about(approval.ProfileWithdraw, nil), "bob", "cyd")
	h.replay(2, 3)
	h.add("service", "acme", "profile.load", "issuers/acme/profiles/default", map[string]string{"ceremony": strings.Repeat("0a", 32)})
	h.replay(2, 4)
	h.add("ada", "acme", approval.ProfileRegister, "issuers/acme/profiles/default", nil)
	h.replay(2, 5)
}

// TestReplayGlass: sealed officers count while the glass is broken.
func TestReplayGlass(t *testing.T) {
	h := begun(t)
	for _, name := range []string{"sam", "tom"} {
		p := enrol(name)
		p.Params["sealed"] = "yes"
		h.whole(p, "bob", "cyd")
	}
	h.whole(setK("default", "3"), "bob", "cyd", "sam")
	h.whole(example(), "bob", "sam")
	h.replay(2, 2)
	glass := approval.Proposal{Operation: approval.GlassBreak, Object: approval.GlassObject, Params: map[string]string{"hours": "1", "reason": "x"}}
	h.whole(glass, "sam")
	h.replay(2, 3)
	h.whole(glass, "sam", "tom")
	h.whole(example(), "bob", "sam")
	h.replay(4, 3)
	h.at = h.at.Add(2 * time.Hour)
	h.whole(example(), "bob", "sam")
	h.replay(4, 4)
}

// TestReplayFindsEvery: whatever a service that was taken over might write as an
// execution, its entry is named.
func TestReplayFindsEvery(t *testing.T) {
	for name, f := range map[string]func(*history, approval.Proposal){
		"no proposal": func(h *history, p approval.Proposal) { h.add("ada", p.Issuer, p.Operation, p.Object, nil) },
		"no officers": func(h *history, p approval.Proposal) {
			h.records = nil
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.execute(p)
		},
		"officers twice": func(h *history, _ approval.Proposal) {
			h.add("service", "", "officer.init", "officers", approval.FirstDetail([]approval.Officer{officer("eve"), officer("dan"), officer("mal")}, 2))
		},
		"one approval":   func(h *history, p approval.Proposal) { h.whole(p, "bob") },
		"its proposer":   func(h *history, p approval.Proposal) { h.whole(p, "bob", "ada") },
		"the same twice": func(h *history, p approval.Proposal) { h.whole(p, "bob", "bob") },
		"a stranger":     func(h *history, p approval.Proposal) { h.whole(p, "bob", "eve") },
		"another object": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.execute(p).Object = "issuers/acme/cards/00"
		},
		"another issuer": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.execute(p).Issuer = "globex"
		},
		"another operation": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.execute(p).Operation = "system.resume"
		},
		"another actor": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.execute(p).Actor = officer("bob").Identity
		},
		"approved by another actor": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.records[len(h.records)-1].Actor = officer("bob").Identity
			h.execute(p)
		},
		"after expiry": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.at = h.at.Add(2 * time.Hour)
			h.execute(p)
		},
		"rejected": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			h.add("bob", p.Issuer, "approval.reject", "proposals/"+p.ID, approval.DecideDetail("bob", sign(p, "bob", approval.Reject).Signature))
			h.execute(p)
		},
		"changed after the approvals": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.approve(p, "bob", "cyd")
			p.Params = map[string]string{"reason": "other"}
			encoding, _ := p.Encode()
			h.records[1].Detail = approval.ProposeDetail(encoding)
			h.execute(p)
		},
		"a broken proposal": func(h *history, p approval.Proposal) {
			p = h.propose(p)
			h.records[1].Detail["p0"] = "AAAA"
			h.approve(p, "bob", "cyd")
			h.execute(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := begun(t)
			f(h, example())
			h.replay(0, 1)
		})
	}
	h := begun(t)
	p := h.propose(example())
	h.approve(p, "bob", "cyd")
	h.execute(p)
	h.execute(p) // replayed
	h.replay(1, 1)
	for _, o := range []string{"pending", "forbidden", "outcome_unknown"} {
		h.execute(p).Outcome = o // nothing happened
	}
	h.add("ada", "", "channel.open", "x", nil)
	h.replay(1, 1)
}
