package approval_test

import (
	"testing"

	"cardkms/kms/approval"
)

func TestFirstOf(t *testing.T) {
	want := []approval.Officer{officer("ada"), officer("bob"), officer("cyd")}
	e := approval.Record{Operation: "officer.init", Outcome: "ok", Detail: approval.FirstDetail([]approval.Officer{want[2], want[0], want[1]}, 2)}
	got, k, ok := approval.FirstOf(e)
	if !ok || k != 2 || len(got) != 3 {
		t.Fatalf("%+v, %d, %v", got, k, ok)
	}
	for i, o := range got {
		if o.Name != want[i].Name || o.Identity != want[i].Identity || !o.Public.Equal(want[i].Public) {
			t.Errorf("officer %d: %+v, want %+v", i, o, want[i])
		}
	}
	refused, other, few := e, e, e
	refused.Outcome, other.Operation, few.Detail = "conflict", "officer.enrol", approval.FirstDetail(want[:2], 2)
	for _, e := range []approval.Record{refused, other, few, {}} {
		if got, _, ok := approval.FirstOf(e); ok {
			t.Errorf("%+v names %+v", e, got)
		}
	}
}
