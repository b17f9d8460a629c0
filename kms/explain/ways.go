package explain

import (
	"cmp"
	"slices"
)

// way is a MAC, one of M, with the words in which it differs from what is expected.
type way[M any] struct {
	words []string
	mac   M
}

// deviation is one point in which programs and cards were seen to differ.
type deviation[M any] struct {
	word  string
	apply func(*M)
}

// when returns a deviation that is possible.
func when[M any](possible bool, d deviation[M]) []deviation[M] {
	if !possible {
		return nil
	}
	return []deviation[M]{d}
}

// deviating returns a MAC with every choice of at most one deviation of each point, in
// the order of the points, fewest first.
func deviating[M any](o M, points ...[]deviation[M]) []way[M] {
	out := []way[M]{{mac: o}}
	for _, point := range points {
		for _, w := range out {
			for _, d := range point {
				changed := way[M]{append(slices.Clone(w.words), d.word), w.mac}
				d.apply(&changed.mac)
				out = append(out, changed)
			}
		}
	}
	slices.SortStableFunc(out, fewer)
	return out
}

func fewer[M any](a, b way[M]) int { return cmp.Compare(len(a.words), len(b.words)) }

// chained is a value that a MAC may chain from.
type chained[T comparable] struct {
	word  string
	value T
}

// instead returns the deviations that put another value in the place of the one that a
// MAC should chain from.
func instead[M any, T comparable](of T, set func(*M, T), others ...chained[T]) (out []deviation[M]) {
	seen := []T{of}
	for _, c := range others {
		if !slices.Contains(seen, c.value) {
			seen = append(seen, c.value)
			out = append(out, deviation[M]{c.word, func(o *M) { set(o, c.value) }})
		}
	}
	return out
}
