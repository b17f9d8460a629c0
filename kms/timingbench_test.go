//go:build bench

package kms_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/derive/scp03"
	"cardkms/kms/cardkey"
	"cardkms/kms/key"
	"cardkms/kms/kmstest"
)

// TestBenchTiming prints how long the formulas take to judge cryptograms inside SoftHSM2.
// The same through REST is in cmd/cardkmsd.
func TestBenchTiming(t *testing.T) {
	n := 10_000
	if os.Getenv("CARDKMS_LONG") != "" {
		n = 100_000
	}
	const slowest = 3 * time.Millisecond
	h := newHarness(t)
	h.loadEMV()
	fmt.Printf("Time to judge a cryptogram, SoftHSM2, %d samples of each:\n", n)
	in := mchip(h.issuer)
	p, m := h.bareMaster(in, "ac")
	k, err := m.MAC(p.Cryptogram, in.Input, false)
	h.must(err)
	kmstest.Judge(t, "EMV ARQC", n, slowest, in.ARQC, func(cryptogram []byte) bool {
		return emv.Verify(h.ctx, h.token, k, p.Padding, in.Data, cryptogram) == nil
	})
	static := derive.FromRoot(cardkey.Root(h.versionOf("isd"), key.Master))
	session := scp03.SessionKeys(scp03.Static{ENC: static, MAC: static}, make([]byte, 8), make([]byte, 8))
	answer := scp03.Answer{CardChallenge: make([]byte, 8), CardCryptogram: make([]byte, 8)}
	right := h.findCryptogram(session, answer)
	kmstest.Judge(t, "SCP03 card cryptogram", n, slowest, right, func(cryptogram []byte) bool {
		a := answer
		a.CardCryptogram = cryptogram
		return scp03.VerifyCard(h.ctx, h.token, session, make([]byte, 8), a) == nil
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
