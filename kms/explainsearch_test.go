package kms

import (
	"errors"
	"testing"

	"cardkms/kms/fault"
)

// TestExplainSearch: what cannot be tried is passed over, but "none" is said only when
// everything that a token could compute was tried.
func TestExplainSearch(t *testing.T) {
	unable, away, broken := fault.New(fault.TokenUnable, "unable"), fault.New(fault.TokenUnavailable, "away"), errors.New("broken")
	type answer struct {
		found bool
		err   error
	}
	for name, tt := range map[string]struct {
		answers []answer
		want    explanation
		err     error
	}{
		"found behind a token that is away":   {[]answer{{err: away}, {}, {found: true}}, "word", nil},
		"found behind what no token computes": {[]answer{{err: unable}, {found: true}}, "word", nil},
		"nothing, and a token away":           {[]answer{{err: away}, {}}, "", away},
		"nothing, and one unable":             {[]answer{{err: unable}, {}}, foundNothing, nil},
		"anything else ends it":               {[]answer{{err: broken}, {found: true}}, "", broken},
	} {
		got, err := explain(tt.answers, func(a answer) (bool, []string, error) { return a.found, []string{"word"}, a.err })
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
