package key

import (
	"slices"
	"testing"
	"time"
)

// TestTransitions writes the whole table down once more.
func TestTransitions(t *testing.T) {
	want := map[State]string{ // in the order of States: P A S D C X
		PreActivation: " A  CX", Active: "  SDC ", Suspended: " A DC ", Deactivated: "    CX", Compromised: "     X", Destroyed: "      ", "ACTIVE": "      ",
	}
	for from, row := range want {
		for i, to := range States() {
			if got := from.May(to); got != (row[i] != ' ') {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
		if from.May("") || from.May("ACTIVE") {
			t.Errorf("%s goes to a state that is none", from)
		}
	}
}

// TestLaws: nothing leaves destroyed, and nothing comes back from deactivated or
// compromised to protect again, by any number of steps.
func TestLaws(t *testing.T) {
	reach := func(from State) (seen []State) {
		for todo := []State{from}; len(todo) > 0; todo = todo[1:] {
			for _, to := range States() {
				if todo[0].May(to) && !slices.Contains(seen, to) {
					seen, todo = append(seen, to), append(todo, to)
				}
			}
		}
		return seen
	}
	if r := reach(Destroyed); len(r) != 0 {
		t.Errorf("destroyed leads to %v", r)
	}
	for _, s := range []State{Deactivated, Compromised} {
		if r := reach(s); slices.Contains(r, Active) || slices.Contains(r, Suspended) {
			t.Errorf("%s leads to %v", s, r)
		}
	}
	for _, s := range States()[:5] {
		if !slices.Contains(reach(s), Destroyed) {
			t.Errorf("%s never ends", s)
		}
	}
}

func TestUses(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name    string
		v       Version
		protect bool
		move    bool
	}{
		{"pre-activation", Version{State: PreActivation}, false, false},
		{"active", Version{State: Active, Ends: now.Add(time.Second)}, true, true},
		{"active without end", Version{State: Active}, true, true},
		{"active at its end", Version{State: Active, Ends: now}, false, true},
		{"suspended", Version{State: Suspended}, false, false},
		{"deactivated", Version{State: Deactivated}, false, true},
		{"compromised", Version{State: Compromised}, false, false},
		{"compromised with a plan", Version{State: Compromised, MovePlanned: true}, false, true},
		{"suspended with a plan", Version{State: Suspended, MovePlanned: true}, false, false},
		{"destroyed", Version{State: Destroyed, MovePlanned: true}, false, false},
		{"no state", Version{}, false, false},
		{"another case", Version{State: "ACTIVE"}, false, false},
	} {
		if got := tt.v.Check(Protect, now) == ""; got != tt.protect {
			t.Errorf("%s protects: %v", tt.name, got)
		}
		if got := tt.v.Check(Move, now) == ""; got != tt.move {
			t.Errorf("%s moves cards: %v", tt.name, got)
		}
		if tt.v.Check("", now) == "" && tt.v.State != Active {
			t.Errorf("%s serves a use that is none", tt.name)
		}
	}
}

func TestAlarms(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for left, want := range map[time.Duration]string{
		-day: "over", 0: "over", 1: "7", 7 * day: "7", 7*day + 1: "30", 30 * day: "30", 31 * day: "90", 90 * day: "90", 91 * day: "",
	} {
		for _, s := range States() {
			w := want
			if s != Active && s != Suspended {
				w = ""
			}
			if got := (Version{State: s, Ends: now.Add(left)}).Alarm(now); got != w {
				t.Errorf("%s with %v left: %q, want %q", s, left, got, w)
			}
		}
	}
	if got := (Version{State: Active}).Alarm(now); got != "" {
		t.Errorf("without an end: %q", got)
	}
}

// TestLegacy: SCP02 is off but for an exception that has not ended.
func TestLegacy(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		v    Version
		off  bool
	}{
		{"SCP03", Version{Usage: GPSCP03}, false},
		{"EMV, whose cards know nothing else", Version{Usage: EMVAC}, false},
		{"no exception", Version{Usage: GPSCP02, State: Active}, true},
		{"one that lasts", Version{Usage: GPSCP02, LegacyUntil: now.Add(1)}, false},
		{"one that ends now", Version{Usage: GPSCP02, LegacyUntil: now}, true},
		{"one that is over", Version{Usage: GPSCP02, LegacyUntil: now.Add(-1)}, true},
	} {
		if got := tt.v.Legacy(now) != ""; got != tt.off {
			t.Errorf("%s: off is %v", tt.name, got)
		}
	}
}
