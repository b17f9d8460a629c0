package report_test

import (
	"slices"
	"testing"

	"cardkms/audit"
	"cardkms/kms/report"
)

// TestDailyFindings: what was done, what was not and what nobody knows of are told apart,
// and an intent is none of them.
func TestDailyFindings(t *testing.T) {
	var want []string
	entries := func(yield func(audit.Entry, error) bool) {
		for i, c := range []struct {
			operation string
			decision  audit.Decision
			outcome   string
			finding   string
		}{
			{"key.create", audit.Allowed, audit.OutcomePending, ""},
			{"key.create", audit.Allowed, audit.OutcomeOK, "officers made a key version"},
			{"key.suspend", audit.Refused, "forbidden", "somebody asked for what the role does not allow"},
			{"key.suspend", audit.Refused, "not_found", "was not done, not_found: key.suspend"},
			{"channel.open", audit.Allowed, audit.OutcomeOK, ""},
			{"channel.open", audit.Refused, "not_found", ""},
			{"database.violation", audit.Refused, "object_tampered", "the database was changed behind the service's back"},
			{"key.destroy", audit.Refused, audit.OutcomeUnknown, "nobody knows whether this operation came to its end"},
		} {
			if c.finding != "" {
				want = append(want, c.finding)
			}
			if !yield(audit.Entry{Sequence: int64(i), Operation: c.operation, Decision: c.decision, Outcome: c.outcome}, nil) {
				return
			}
		}
	}
	r, err := report.NewDaily(report.Head{}, entries)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.What)
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if r.Done["key.create"] != 1 || r.Refused["key.suspend forbidden"] != 1 || r.Last != 7 {
		t.Errorf("counted %+v", r)
	}
}
