// Package scp03 computes Secure Channel Protocol 03.
//
// It follows [AmdD] GlobalPlatform Card Technology, Secure Channel Protocol '03',
// Card Specification v2.2 – Amendment D, version 1.1.2. It keeps no state: the
// caller passes the MAC chaining value and the encryption counter in and takes
// their successors out (kms/channel does). PUT KEY blocks are in putkey.go.
//
// The parser accepts the INITIALIZE UPDATE answer
//
//	KDD(10) | KVN(1) | 03 | i(1) | card challenge (8|16) | card cryptogram (8|16) | sequence counter (3, if i & 10)
//
// in S8 mode (29 or 32 bytes) and S16 mode (45 or 48 bytes). For example the
// 32 bytes
//
//	00000000000000000000 30 03 70 3EB51047495B249F 66C484C1D2EF1948 000002
//
// are KVN 30, i = 70, and sequence counter 2.
//
// Proofs are compared in constant time, and every failed proof is fault.Proof().
package scp03

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Mode is the length in bytes of challenges, cryptograms and MACs.
type Mode int

// The modes.
const (
	S8  Mode = 8
	S16 Mode = 16
)

// Bits of the "i" parameter: [AmdD], Section 5.1, Table 5-1.
const (
	ISixteen     = 0x01
	IPseudo      = 0x10
	IRMAC        = 0x20
	IREncryption = 0x40 // with IRMAC
)

// Level is a security level, P1 of EXTERNAL AUTHENTICATE: [AmdD], Table 7-6.
type Level byte

// Parts of a Level.
const (
	CMAC        Level = 0x01
	CDecryption Level = 0x02
	RMAC        Level = 0x10
	REncryption Level = 0x20
)

// ValidLevel reports whether l is one of 00, 01, 03, 11, 13, 33 and a card with
// this "i" supports it.
func ValidLevel(l Level, i byte) bool {
	switch l {
	case 0x00, 0x01, 0x03:
		return true
	case 0x11, 0x13:
		return i&IRMAC != 0
	case 0x33:
		return i&IRMAC != 0 && i&IREncryption != 0
	}
	return false
}

// InitializeUpdate returns the command that opens a session with the keys of
// version kvn (00: the card's default). The challenge has 8 or 16 bytes.
func InitializeUpdate(kvn byte, hostChallenge []byte) apdu.Command {
	return apdu.Command{CLA: 0x80, INS: 0x50, P1: kvn, Data: hostChallenge, Ne: apdu.ShortNeMax}
}

// Answer is the card's answer to INITIALIZE UPDATE.
type Answer struct {
	KDD             []byte // 10 bytes
	KVN, I          byte
	CardChallenge   []byte // 8 or 16 bytes
	CardCryptogram  []byte // as long as the challenge
	Counter         uint32 // 24 bits
	CounterIncluded bool   // i & 10
}

// ParseAnswer parses the data of the answer for a session of this mode. An
// answer of the other mode, another protocol or another length is refused with
// fault.InvalidInput.
func ParseAnswer(b []byte, m Mode) (Answer, error) {
	n := int(m)
	if len(b) < 13 || b[11] != 0x03 {
		return Answer{}, fault.New(fault.InvalidInput, "the answer is not one of SCP03")
	}
	a := Answer{KDD: bytes.Clone(b[:10]), KVN: b[10], I: b[12]}
	a.CounterIncluded = a.I&IPseudo != 0
	want := 13 + 2*n
	if a.CounterIncluded {
		want += 3
	}
	if len(b) != want || (a.I&ISixteen != 0) != (m == S16) {
		return Answer{}, fault.New(fault.InvalidInput, fmt.Sprintf("an answer with i = %02X in S%d mode has %d bytes", a.I, 8*n, want))
	}
	a.CardChallenge = bytes.Clone(b[13 : 13+n])
	a.CardCryptogram = bytes.Clone(b[13+n : 13+2*n])
	if a.CounterIncluded {
		a.Counter = uint32(b[want-3])<<16 | uint32(b[want-2])<<8 | uint32(b[want-1])
	}
	return a, nil
}

// Static refers to the static keys of one card, all of one AES size.
type Static struct{ ENC, MAC, DEK *derive.Key }

// Session refers to the session keys.
type Session struct{ ENC, MAC, RMAC *derive.Key }

// Derivation constants: [AmdD], Section 4.1.5, Table 4-1.
const (
	constCard      = 0x00
	constHost      = 0x01
	constChallenge = 0x02
	constENC       = 0x04
	constMAC       = 0x06
	constRMAC      = 0x07
)

// before returns label, separator and length of the derivation data:
// [AmdD], Section 4.1.5, 00*11 | constant | 00 | L in bits.
func before(constant byte, bits int) []byte {
	b := make([]byte, 15)
	b[11] = constant
	binary.BigEndian.PutUint16(b[13:], uint16(bits))
	return b
}

func step(constant byte, context []byte, c derive.Class, a key.Algorithm) derive.Step {
	return derive.Step{
		Function: derive.CMACCounter, Before: before(constant, 8*a.Size()), After: context,
		Class: c, Algorithm: a,
	}
}

// SessionKeys refers to the keys of the session with these challenges.
// [AmdD], Section 6.2.1: the context is host challenge | card challenge.
func SessionKeys(s Static, hostChallenge, cardChallenge []byte) Session {
	ctx := append(bytes.Clone(hostChallenge), cardChallenge...)
	return Session{
		ENC:  s.ENC.Derive(step(constENC, ctx, derive.SessionENC, s.ENC.Algorithm())),
		MAC:  s.MAC.Derive(step(constMAC, ctx, derive.SessionMAC, s.MAC.Algorithm())),
		RMAC: s.MAC.Derive(step(constRMAC, ctx, derive.SessionMAC, s.MAC.Algorithm())),
	}
}

// cryptogram computes a card or host cryptogram: [AmdD], Sections 6.2.2.2 and
// 6.2.2.3, one output block of the derivation function under S-MAC.
func cryptogram(ctx context.Context, t derive.Token, sMAC *derive.Key, constant byte, hostChallenge, cardChallenge []byte) ([]byte, error) {
	n := len(hostChallenge)
	m := append(before(constant, 8*n), 1)
	m = append(append(m, hostChallenge...), cardChallenge...)
	mac, err := t.MAC(ctx, sMAC, m)
	if err != nil {
		return nil, fmt.Errorf("computing a cryptogram: %w", err)
	}
	return mac[:n], nil
}

// VerifyCard checks the card cryptogram of an answer to hostChallenge.
func VerifyCard(ctx context.Context, t derive.Token, k Session, hostChallenge []byte, a Answer) error {
	want, err := cryptogram(ctx, t, k.MAC, constCard, hostChallenge, a.CardChallenge)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, a.CardCryptogram) != 1 {
		return fault.Proof()
	}
	return nil
}

// VerifyChallenge checks a pseudo-random card challenge: [AmdD], Section
// 6.2.2.1, derived from K-ENC over sequence counter | AID of the Security
// Domain (5 to 16 bytes). The caller asks only where a.CounterIncluded.
func VerifyChallenge(ctx context.Context, t derive.Token, kENC *derive.Key, a Answer, aid []byte) error {
	ok, err := t.Matches(ctx, kENC, challengeStep(a.Counter, aid, len(a.CardChallenge)), a.CardChallenge)
	if err != nil {
		return fmt.Errorf("checking the card challenge: %w", err)
	}
	if !ok {
		return fault.Proof()
	}
	return nil
}

// challengeStep derives the card challenge of n bytes for a sequence counter.
func challengeStep(counter uint32, aid []byte, n int) derive.Step {
	return derive.Step{
		Function: derive.CMACCounter, Before: before(constChallenge, 8*n), After: append([]byte{byte(counter >> 16), byte(counter >> 8), byte(counter)}, aid...),
		Algorithm: key.AES128, Class: derive.SessionMAC,
	}
}

// ExternalAuthenticate returns the command that proves the host and sets the
// level, and the state that the first command of the session starts from. It
// must be called only after VerifyCard succeeded: its host cryptogram lets
// whoever holds it authenticate to the card.
func ExternalAuthenticate(ctx context.Context, t derive.Token, k Session, l Level, hostChallenge, cardChallenge []byte) (apdu.Command, State, error) {
	host, err := cryptogram(ctx, t, k.MAC, constHost, hostChallenge, cardChallenge)
	if err != nil {
		return apdu.Command{}, State{}, err
	}
	cmd := apdu.Command{CLA: 0x80, INS: 0x82, P1: byte(l), Data: host}
	m := Messaging{Token: t, Keys: k, Level: CMAC, Mode: Mode(len(hostChallenge))}
	// [AmdD], Section 6.2.4: the chaining value starts as 16 zero bytes, and the
	// command is MACed whatever the level but never encrypted.
	cmd, s, err := m.Wrap(ctx, State{}, cmd)
	s.Counter = 0
	return cmd, s, err
}
