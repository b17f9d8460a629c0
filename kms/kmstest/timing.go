package kmstest

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"
)

// sample is running figures of one kind of input.
type sample struct{ n, mean, squares float64 }

func (s *sample) add(d time.Duration) {
	s.n++
	delta := float64(d) - s.mean
	s.mean += delta / s.n
	s.squares += delta * (float64(d) - s.mean)
}

// welch returns Welch's t of two samples: beyond about 4.5 they differ.
func welch(a, b sample) float64 {
	return (a.mean - b.mean) / math.Sqrt(a.squares/(a.n-1)/a.n+b.squares/(b.n-1)/b.n)
}

// Judge prints how long it takes to judge a cryptogram that is right, wrong in its first
// byte and wrong in its last, n times each: an answer that came sooner would tell how much
// of a guess is right. judge reports whether it found the cryptogram right. Samples are
// taken in turn, and those that took a second share of the machine are left out alike.
func Judge(t testing.TB, what string, n int, slowest time.Duration, right []byte, judge func(cryptogram []byte) bool) {
	t.Helper()
	first, last := bytes.Clone(right), bytes.Clone(right)
	first[0] ^= 1
	last[len(last)-1] ^= 1
	inputs, figures := [3][]byte{right, first, last}, [3]sample{}
	for i := range 999 {
		if judge(inputs[i%3]) != (i%3 == 0) {
			t.Fatalf("%s, input %d is judged wrongly", what, i%3)
		}
	}
	for range n {
		for i, in := range inputs {
			began := time.Now()
			judge(in)
			if d := time.Since(began); d < slowest {
				figures[i].add(d)
			}
		}
	}
	fmt.Printf("  %-28s right %.1f µs  first byte wrong %.1f µs  last byte wrong %.1f µs  t(first, last) %.2f  t(right, first) %.2f\n",
		what, figures[0].mean/1e3, figures[1].mean/1e3, figures[2].mean/1e3, welch(figures[1], figures[2]), welch(figures[0], figures[1]))
}
