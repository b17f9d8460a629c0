package kms_test

import (
	"testing"
	"time"

	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
)

func breakGlass(hours string) kms.ProposeInput {
	return kms.ProposeInput{Operation: approval.GlassBreak, Object: approval.GlassObject, Params: map[string]string{"hours": hours, "reason": "officers-abroad"}}
}

// TestBreakGlass: sealed officers act after two of them broke the glass, for the
// hours that were approved and no longer, and the log proves all of it.
func TestBreakGlass(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	for _, name := range []string{"sam", "tom", "uma"} {
		o := officerNamed(name)
		o.State = approval.Sealed
		h.whole(kms.ProposeInput{Operation: approval.OfficerEnrol, Object: "officers/" + name, Params: approval.EnrolParams(o)})
	}
	change := setPolicy("card.release", "2")
	_, err := h.propose("sam", change)
	h.want("a sealed officer proposes", err, fault.Forbidden)
	before, err := h.propose("ada", change)
	h.must(err)
	_, err = h.decide(before, "sam", approval.Approve)
	h.want("a sealed officer approves", err, fault.Forbidden)
	for _, hours := range []string{"0", "5", "", "2h"} {
		_, err = h.propose("sam", breakGlass(hours))
		h.want(hours+" hours", err, fault.InvalidInput)
	}
	_, err = h.propose("ada", setPolicy(approval.GlassBreak, "2"))
	h.want("a policy for it", err, fault.InvalidInput)

	c, err := h.propose("sam", breakGlass("2"))
	h.must(err)
	_, err = h.decide(c, "sam", approval.Approve)
	h.want("alone", err, fault.Forbidden)
	h.approve(c, "tom")
	_, err = h.service.Execute(h.ctx, h.officer("tom"), c.Proposal.ID)
	h.want("with one approval", err, fault.ApprovalRequired)
	h.approve(c, "uma")
	_, err = h.service.Execute(h.ctx, h.officer("tom"), c.Proposal.ID)
	h.must(err)
	_, err = h.propose("sam", breakGlass("2"))
	h.want("broken twice", err, fault.Conflict)

	h.advance(30 * time.Minute)
	h.approve(before, "tom", "sam")
	_, err = h.service.Execute(h.ctx, h.officer("uma"), before.Proposal.ID)
	h.must(err)
	in := setPolicy("system.resume", "2")
	in.Life = 3 * time.Hour
	late, err := h.propose("sam", in)
	h.must(err)
	h.approve(late, "tom", "uma")
	h.must(h.service.Tend(h.ctx))

	h.advance(90 * time.Minute)
	_, err = h.service.Execute(h.ctx, h.officer("uma"), late.Proposal.ID)
	h.want("executed by a sealed officer when it is over", err, fault.Forbidden)
	_, err = h.execute(late)
	h.want("executed on what sealed officers approved", err, fault.ApprovalRequired)
	review := kms.ProposeInput{Operation: approval.GlassReview, Object: approval.GlassObject, Params: map[string]string{"finding": "one-policy"}}
	_, err = h.propose("ada", review)
	h.want("reviewed before the log says that it is over", err, fault.Conflict)
	h.must(h.service.Tend(h.ctx))
	h.must(h.service.Tend(h.ctx))
	if e := h.entryOf("glass.closed"); e.Outcome != "ok" {
		t.Errorf("%+v", e)
	}
	control, err := h.service.Control(h.ctx, h.officer("ada"))
	h.must(err)
	if g := control.Glass; !g.Closed || g.Unreviewed != 1 {
		t.Errorf("%+v", g)
	}
	h.whole(breakGlass("1"))
	h.advance(time.Hour)
	_, err = h.propose("ada", breakGlass("1"))
	h.want("broken again before the log says that it is over", err, fault.Conflict)
	h.must(h.service.Tend(h.ctx))
	h.whole(review)
	h.whole(review) // once for each time
	_, err = h.propose("ada", review)
	h.want("reviewed once more", err, fault.Conflict)
	h.proven(8)
}
