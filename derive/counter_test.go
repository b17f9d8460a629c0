package derive_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/key"
)

// TestCounterKDF runs NIST's vectors of SP 800-108 counter mode with a counter
// of 8 bits in its three places. A Step derives at most 32 bytes, so the vectors
// of 320 bits are compared in their first 256; all others in full.
func TestCounterKDF(t *testing.T) {
	var file struct {
		Cases []struct {
			PRF      string
			Location string `json:"ctr_location"`
			RLen     int    `json:"rlen_bits"`
			L        int
			Key      derivetest.Octets
			Fixed    derivetest.Octets `json:"fixed_input"`
			Before   derivetest.Octets `json:"data_before"`
			After    derivetest.Octets `json:"data_after"`
			Output   derivetest.Octets
		}
	}
	derivetest.ReadVectors(t, "std_sp800_108_kdfctr_cmac.json", &file)
	count := map[string]int{}
	for i, c := range file.Cases {
		s := derive.Step{Function: derive.CMACCounter, Class: derive.Static, Algorithm: key.AES256}
		switch c.Location {
		case "BEFORE_FIXED":
			s.After = c.Fixed
		case "MIDDLE_FIXED":
			s.Before, s.After = c.Before, c.After
		case "AFTER_FIXED":
			s.Before = c.Fixed
		}
		if c.L == 128 {
			s.Algorithm = key.AES128
		}
		master, err := key.AESOfSize(len(c.Key))
		if err != nil || c.RLen != 8 || !strings.HasSuffix(string(master), strings.TrimPrefix(c.PRF, "CMAC_AES")) {
			t.Fatalf("case %d is not one of AES-CMAC with a counter of 8 bits", i)
		}
		var tok derivetest.Token
		got := tok.Value(tok.Add("k", master, derive.Static, c.Key).Derive(s))
		n := min(len(got), len(c.Output))
		if !bytes.Equal(got[:n], c.Output[:n]) {
			t.Errorf("case %d (%s %s, %d bits): %X, want %X", i, c.PRF, c.Location, c.L, got, c.Output)
		}
		if want := min(c.L/8, 32); n != want {
			t.Errorf("case %d compared %d bytes, want %d", i, n, want)
		}
		count[c.PRF+" "+c.Location]++
	}
	want := map[string]int{}
	for _, prf := range []string{"CMAC_AES128", "CMAC_AES192", "CMAC_AES256"} {
		for _, place := range []string{"BEFORE_FIXED", "MIDDLE_FIXED", "AFTER_FIXED"} {
			want[prf+" "+place] = 8
		}
	}
	if d := cmp.Diff(want, count); d != "" {
		t.Errorf("vectors that ran: %s", d)
	}
}

// TestInputs states the counter's place and how many blocks a key takes.
func TestInputs(t *testing.T) {
	for _, c := range []struct {
		prf, derived key.Algorithm
		want         [][]byte
	}{
		{key.AES128, key.AES128, [][]byte{{9, 1, 8}}},
		{key.AES128, key.AES192, [][]byte{{9, 1, 8}, {9, 2, 8}}},
		{key.AES256, key.AES256, [][]byte{{9, 1, 8}, {9, 2, 8}}},
		{key.TDEA2, key.TDEA3, [][]byte{{9, 1, 8}, {9, 2, 8}, {9, 3, 8}}},
	} {
		s := derive.Step{Function: derive.CMACCounter, Before: make([]byte, 1, 64), After: []byte{8}, Algorithm: c.derived}
		s.Before[0] = 9 // with spare capacity: the inputs must not share it
		if d := cmp.Diff(c.want, s.Inputs(c.prf)); d != "" {
			t.Errorf("%s from %s: %s", c.derived, c.prf, d)
		}
	}
	messages := [][]byte{{1}, {2}}
	if d := cmp.Diff(messages, derive.Step{Function: derive.CMACTwoBlocks, Messages: messages}.Inputs(key.AES128)); d != "" {
		t.Error(d)
	}
}
