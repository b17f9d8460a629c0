package approval

import (
	"strconv"
	"time"

	"cardkms/kms/fault"
)

// Breaking the glass, for the day on which too few officers can be reached. The
// keys of sealed officers lie in envelopes; they may act only while the glass is
// broken, and to break it. It adds people and takes nothing away: every operation
// keeps its k, and what sealed officers approved does not count once it is over.
const (
	GlassBreak  = "glass.break"  // params hours and reason
	GlassReview = "glass.review" // param finding; afterwards, by officers who are not sealed
	GlassObject = "system/glass"

	GlassHoursMax = 4
)

// Glass says until when sealed officers may act.
type Glass struct {
	Until  time.Time `json:"until"`
	Closed bool      `json:"closed"` // the log tells that it is over
	// Unreviewed is how many times it was broken since officers last looked at what
	// was done.
	Unreviewed int `json:"unreviewed"`
}

// Broken reports whether sealed officers may act now.
func (g Glass) Broken(now time.Time) bool { return now.Before(g.Until) }

// BrokenBy returns for how long a proposal breaks the glass.
func BrokenBy(p Proposal) (time.Duration, error) {
	hours := parseK(p.Params["hours"])
	if p.Object != GlassObject || p.Issuer != "" || hours < 1 || hours > GlassHoursMax || p.Params["reason"] == "" || !p.Only("hours", "reason") {
		return 0, fault.New(fault.InvalidInput, "the glass is broken as "+GlassObject+" for every issuer, with a reason and 1 to "+strconv.Itoa(GlassHoursMax)+" hours")
	}
	return time.Duration(hours) * time.Hour, nil
}

// ReviewedBy checks a proposal that says what the review of a broken glass found.
func ReviewedBy(p Proposal) error {
	if p.Object != GlassObject || p.Issuer != "" || p.Params["finding"] == "" || !p.Only("finding") {
		return fault.New(fault.InvalidInput, "a broken glass is reviewed as "+GlassObject+" for every issuer, with a finding")
	}
	return nil
}

// Acting returns the officers as they may act on an operation: who is sealed is
// active while the glass is broken, and to break it.
func (all Officers) Acting(operation string, g Glass, now time.Time) Officers {
	if operation != GlassBreak && !g.Broken(now) {
		return all
	}
	out := make(Officers, len(all))
	for name, o := range all {
		if o.State == Sealed {
			o.State = Active
		}
		out[name] = o
	}
	return out
}
