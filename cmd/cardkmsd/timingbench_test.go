//go:build bench

package main

import (
	"bytes"
	"crypto/des"
	"encoding/hex"
	"fmt"
	"os"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/kms/kmstest"
)

// The issuer master key and the transaction of vector emv-mc-cvn16 of derive/emv: pyemv,
// checked against a payment HSM.
var (
	timedMaster      = hexOf("0123456789ABCDEFFEDCBA9876543210")
	timedTransaction = api.EMVTransaction{
		Profile: "mchip-16", Key: "ac", DKI: 1, PAN: "1234567890123456", PSN: "00", ATC: hexOf("001C"), UN: hexOf("ABCDEF12"),
		Data: hexOf("00000000999900000000000001248000000000012420990600ABCDEF121800001CA00003220000"), ARQC: hexOf("24CCF3DEE3158C70"),
	}
)

func hexOf(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// TestBenchTiming prints how long the real server takes to answer to a cryptogram, over
// mutual TLS and with an entry for each. The right one was taken before, so that its proof
// verifies and its counter is refused: every request changes as much as the others.
func TestBenchTiming(t *testing.T) {
	n := 3_000
	if os.Getenv("CARDKMS_LONG") != "" {
		n = 100_000
	}
	s := newSite(t, "limits: {requestsPerSecond: 100000}\n")
	s.stop()
	s.loadTimed()
	s.serve()
	c := s.client("update-server")
	if _, err := c.VerifyARQC(t.Context(), devIssuer, timedTransaction); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("Time from request to answer over REST, SoftHSM2, %d samples of each:\n", n)
	kmstest.Judge(t, "EMV ARQC, taken before", n, 10*time.Millisecond, timedTransaction.ARQC, func(cryptogram []byte) bool {
		in := timedTransaction
		in.ARQC = cryptogram
		_, err := c.VerifyARQC(t.Context(), devIssuer, in)
		if code := codeOf(err); code != api.CardCounter && code != api.ProofFailed {
			t.Fatal(err)
		}
		return codeOf(err) == api.CardCounter
	})
}

// loadTimed brings the master in by three components: of two, each of odd parity, the sum
// would be of even parity.
func (s *site) loadTimed() {
	s.t.Helper()
	parts := [3][]byte{hexOf("0B0B0B0B0B0B0B0B0D0D0D0D0D0D0D0D"), hexOf("0D0D0D0D0D0D0D0D0B0B0B0B0B0B0B0B"), bytes.Clone(timedMaster)}
	for i := range timedMaster {
		parts[2][i] ^= parts[0][i] ^ parts[1][i]
	}
	var list, typed string
	for i, c := range parts {
		list += fmt.Sprintf("{custodian: %s, kcv: %q}, ", custodians[i], kcvOf3DES(c))
		typed += fmt.Sprintf("%X\n", c)
	}
	file := s.ceremony("emv", fmt.Sprintf("together: true\nkeys:\n  - {issuer: demo, key: ac, usage: emv-ac, kvn: \"01\", algorithm: tdea-2key, "+
		"cardAlgorithm: tdea-2key, diversification: emv-option-a, master: {kcv: %q, components: [%s]}}\n", kcvOf3DES(timedMaster), list))
	s.must(s.cardkmsd(typed, "ceremony", "run", "--yes", file))
}

// kcvOf3DES is the check value of a 3DES key: 3DES over 8 zero bytes, the first 3 bytes.
func kcvOf3DES(k []byte) string {
	b, err := des.NewTripleDESCipher(append(bytes.Clone(k), k[:8]...))
	if err != nil {
		panic(err)
	}
	out := make([]byte, 8)
	b.Encrypt(out, out)
	return fmt.Sprintf("tdea-zero:%X", out[:3])
}
