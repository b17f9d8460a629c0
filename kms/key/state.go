package key

import (
	"fmt"
	"slices"
	"time"
)

// State is a life-cycle state of [SP 800-57], Section 7.
type State string

// The states of a key version.
const (
	PreActivation State = "pre-activation"
	Active        State = "active"
	Suspended     State = "suspended"
	Deactivated   State = "deactivated"
	Compromised   State = "compromised"
	Destroyed     State = "destroyed"
)

// States returns every state, in the order of a life.
func States() []State {
	return []State{PreActivation, Active, Suspended, Deactivated, Compromised, Destroyed}
}

// transitions are those of [SP 800-57], Section 7.3, Figure 3, with one more
// reading: nothing leaves destroyed, not even a later discovery of compromise,
// which is a matter for the incident's record.
var transitions = map[State][]State{
	PreActivation: {Active, Compromised, Destroyed},
	Active:        {Suspended, Deactivated, Compromised},
	Suspended:     {Active, Deactivated, Compromised},
	Deactivated:   {Compromised, Destroyed},
	Compromised:   {Destroyed},
}

// May reports whether a version may go from s to another state.
func (s State) May(to State) bool { return slices.Contains(transitions[s], to) }

// Use is what somebody wants of a key version.
type Use string

// The uses.
const (
	Protect Use = "protect" // open channels, make packages: the key's purpose
	Move    Use = "move"    // reach a card that has this version, to give it a newer one
)

// Allows reports whether a version in this state serves a use. A suspended one
// serves nothing until officers decide; a deactivated one still reaches the
// cards that carry it; a compromised one does so only where an approved plan says
// so, which is for Version.Check.
func (s State) Allows(u Use) bool {
	return s == Active || s == Deactivated && u == Move
}

// DefaultCryptoperiod is how long a derivation master protects unless it was
// created for another time: a symmetric master key's originator-usage period is
// about one year ([SP 800-57], Section 5.3.6, Table 1).
const DefaultCryptoperiod = 365 * 24 * time.Hour

// Check says why a version does not serve a use now, "" if it does. After the end
// of its cryptoperiod a version counts as deactivated, whatever its row says.
func (v Version) Check(u Use, now time.Time) string {
	state := v.State
	if state == Active && !v.Ends.IsZero() && !now.Before(v.Ends) {
		state = Deactivated
	}
	if state.Allows(u) || state == Compromised && u == Move && v.MovePlanned {
		return ""
	}
	if state != v.State {
		return "the key version's cryptoperiod is over"
	}
	return "the key version is " + string(v.State)
}

// Legacy says why the protocol of a version is not spoken now, "" if it is: SCP02 is
// deprecated by GlobalPlatform and 3DES by [SP 800-131A], so it is off unless officers
// made an exception that has not ended.
func (v Version) Legacy(now time.Time) string {
	switch {
	case v.Usage != GPSCP02 || now.Before(v.LegacyUntil):
		return ""
	case v.LegacyUntil.IsZero():
		return "SCP02 is off for this key version; officers make an exception by key.allow-legacy"
	}
	return "the exception that let this key version speak SCP02 is over"
}

// alarmDays are how long before the end of a cryptoperiod officers are told.
var alarmDays = []int{7, 30, 90}

// Alarm returns the alarm of a version that still protects: "over", "7", "30" or
// "90" days, "" for none.
func (v Version) Alarm(now time.Time) string {
	if v.Ends.IsZero() || v.State != Active && v.State != Suspended {
		return ""
	}
	if !now.Before(v.Ends) {
		return "over"
	}
	for _, d := range alarmDays {
		if v.Ends.Sub(now) <= time.Duration(d)*24*time.Hour {
			return fmt.Sprint(d)
		}
	}
	return ""
}
