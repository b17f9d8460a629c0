package approval

import (
	"maps"
	"slices"
	"strings"
)

// FirstOf returns the officers, sorted by name, and k that an entry says dual
// control begins with; ok is false for an entry that says nothing of them. A
// Replay takes the first such entry of a log, and reports another one.
func FirstOf(e Record) (officers []Officer, k int, ok bool) {
	if e.Operation != opInit || e.Outcome != outcomeOK {
		return nil, 0, false
	}
	all, k, err := firstOf(e.Detail)
	if err != nil {
		return nil, 0, false
	}
	byName := func(a, b Officer) int { return strings.Compare(a.Name, b.Name) }
	return slices.SortedFunc(maps.Values(all), byName), k, true
}
