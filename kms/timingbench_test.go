//go:build bench

package kms_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/key"
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

// TestBenchTiming prints how long it takes to find a cryptogram right, wrong in its
// first byte and wrong in its last: an answer that came sooner would tell how much of
// a guess is right. Samples are taken in turn, and the slowest are left out alike.
func TestBenchTiming(t *testing.T) {
	n := 10_000
	if os.Getenv("CARDKMS_LONG") != "" {
		n = 100_000
	}
	h := newHarness(t)
	h.loadEMV()
	fmt.Printf("Time to judge a cryptogram, SoftHSM2, %d samples of each:\n", n)
	in := mchip(h.issuer)
	p, m := h.bareMaster(in, "ac")
	k, err := m.MAC(p.Cryptogram, in.Input, false)
	h.must(err)
	h.judge("EMV ARQC", n, in.ARQC, func(cryptogram []byte) error {
		return emv.Verify(h.ctx, h.token, k, p.Padding, in.Data, cryptogram)
	})
	static := derive.FromRoot(kms.Root(h.versionOf("isd"), key.Master))
	session := scp03.SessionKeys(scp03.Static{ENC: static, MAC: static}, make([]byte, 8), make([]byte, 8))
	answer := scp03.Answer{CardChallenge: make([]byte, 8), CardCryptogram: make([]byte, 8)}
	right := h.findCryptogram(session, answer)
	h.judge("SCP03 card cryptogram", n, right, func(cryptogram []byte) error {
		a := answer
		a.CardCryptogram = cryptogram
		return scp03.VerifyCard(h.ctx, h.token, session, make([]byte, 8), a)
	})
}

// findCryptogram computes a card cryptogram as the card does: [AmdD], Section 6.2.2.2.
func (h *harness) findCryptogram(s scp03.Session, a scp03.Answer) []byte {
	h.t.Helper()
	m := append(make([]byte, 13), 0x00, 0x40, 0x01)
	mac, err := h.token.MAC(h.ctx, s.MAC, append(append(m, make([]byte, 8)...), a.CardChallenge...))
	h.must(err)
	return mac[:8]
}

func (h *harness) judge(what string, n int, right []byte, verify func([]byte) error) {
	h.t.Helper()
	first, last := bytes.Clone(right), bytes.Clone(right)
	first[0] ^= 1
	last[7] ^= 1
	inputs, figures := [3][]byte{right, first, last}, [3]sample{}
	for i := range 1000 {
		if err := verify(inputs[i%3]); (err == nil) != (i%3 == 0) {
			h.t.Fatalf("%s, input %d: %v", what, i%3, err)
		}
	}
	const slowest = 3 * time.Millisecond // the machine did something else
	for range n {
		for i, in := range inputs {
			began := time.Now()
			_ = verify(in)
			if d := time.Since(began); d < slowest {
				figures[i].add(d)
			}
		}
	}
	fmt.Printf("  %-22s right %.1f µs  first byte wrong %.1f µs  last byte wrong %.1f µs  t(first, last) %.2f  t(right, first) %.2f\n",
		what, figures[0].mean/1e3, figures[1].mean/1e3, figures[2].mean/1e3, welch(figures[1], figures[2]), welch(figures[0], figures[1]))
}
