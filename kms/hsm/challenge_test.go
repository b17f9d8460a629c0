package hsm_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// challengeOf is the step to a card challenge of n bytes.
func challengeOf(n int) derive.Step {
	before := make([]byte, 15)
	before[11] = 0x02
	binary.BigEndian.PutUint16(before[13:], uint16(8*n))
	return derive.Step{
		Function: derive.CMACCounter, Before: before, After: []byte{0, 0, 7, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00},
		Class: derive.SessionMAC, Algorithm: key.AES128,
	}
}

// TestChallenge: the token gives out a card challenge, the one that it would compare
// with, and no other value of a derivation, however like one the request looks.
func TestChallenge(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		base := victims(t, tok)["card key"]
		for _, n := range []int{8, 16} {
			got, err := tok.Challenge(ctx, base, challengeOf(n))
			if fault.CodeOf(err) == fault.TokenUnable {
				if !strings.HasSuffix(t.Name(), "/nss") { // which makes nothing readable from such a key
					t.Errorf("%d bytes: %v", n, err)
				}
				continue
			}
			if err != nil || len(got) != n {
				t.Fatalf("%X, %v", got, err)
			}
			if ok, err := tok.Matches(ctx, base, challengeOf(n), got); err != nil || !ok {
				t.Errorf("%d bytes: the token does not know its own challenge: %v", n, err)
			}
		}
		for name, change := range map[string]func(*derive.Step){
			"S-ENC":              func(s *derive.Step) { s.Before[11] = 0x04 },
			"S-MAC":              func(s *derive.Step) { s.Before[11] = 0x06 },
			"a card cryptogram":  func(s *derive.Step) { s.Before[11] = 0x00 },
			"a key of 256 bits":  func(s *derive.Step) { s.Before[13] = 0x01 },
			"another label":      func(s *derive.Step) { s.Before[0] = 1 },
			"another separator":  func(s *derive.Step) { s.Before[12] = 1 },
			"a shorter label":    func(s *derive.Step) { s.Before = s.Before[1:] },
			"a short context":    func(s *derive.Step) { s.After = s.After[:7] },
			"a session's":        func(s *derive.Step) { s.After = make([]byte, 32) },
			"blocks":             func(s *derive.Step) { s.Function, s.Messages = derive.ECB, [][]byte{make([]byte, 16)} },
			"AN10922":            func(s *derive.Step) { s.Function, s.Messages = derive.CMACTwoBlocks, [][]byte{make([]byte, 16)} },
			"a length of 4":      func(s *derive.Step) { s.Before[14] = 32 },
			"a length of 0":      func(s *derive.Step) { s.Before[14] = 0 },
			"a length of 64 + 1": func(s *derive.Step) { s.Before[14]++ },
		} {
			s := challengeOf(8)
			change(&s)
			if got, err := tok.Challenge(ctx, base, s); err == nil {
				t.Errorf("%s: the token gave out %d bytes", name, len(got))
			}
		}
		if _, err := tok.Challenge(ctx, victims(t, tok)["S-MAC"], challengeOf(8)); err == nil {
			t.Error("a session key derived a challenge")
		}
	})
}
