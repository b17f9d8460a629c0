// Package scp02 computes Secure Channel Protocol 02.
//
// It follows [GPCS] GlobalPlatform Card Specification 2.3.1, Appendix E. The
// specification itself was not at hand: layouts are those on which kaoh/globalplatform,
// GlobalPlatformPro, pySim, openjavacard-tools and skythen/scp02 agree, section numbers
// those that they cite, and each layout is checked against their numbers. It keeps no
// state: the caller passes State and Responses in and takes their successors out. What
// MACs are over is in mac.go, PUT KEY blocks in putkey.go. It leaves out BEGIN and END
// R-MAC SESSION, GET DATA of the sequence counter, and the values of "i" that are not
// listed here.
//
// The "i" parameter is not in the card's answer; the card product's profile says it:
//
//	15  explicit, 3 keys, C-MAC on the modified APDU, ICV encryption
//	05  as 15, without ICV encryption
//	35  as 15, with R-MAC
//	55, 45, 75  as 15, 05, 35, with a pseudo-random card challenge
//	1A  implicit, 1 base key, C-MAC on the unmodified APDU, first ICV = MAC(AID), ICV encryption
//
// The parser accepts the INITIALIZE UPDATE answer of 28 bytes
//
//	KDD(10) | KVN(1) | 02 | sequence counter(2) | card challenge(6) | card cryptogram(8)
//
// For example the bytes
//
//	000074746E6E6E626262 01 02 069F AA2A0591E733 67DD78794D04315E
//
// are KVN 01 and sequence counter 069F.
//
// Proofs are compared in constant time, and every failed proof is fault.Proof().
//
// BUG: SCP02 is weak, and GlobalPlatform deprecated it. A card checks its C-MAC over
// what it decrypted and unpadded, so that whoever may abort many sessions reads
// C-DECRYPTION data byte by byte ([AF] Avoine and Ferreira, TCHES 2018(2), 149-170);
// equal sequence counters give equal keys; 3DES blocks are 64 bits. The caller limits
// aborted sessions and keeps long-term secrets out of command data.
package scp02

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

// Lengths in bytes.
const (
	HostChallengeBytes = 8
	macBytes           = 8
	challengeBytes     = 6 // of a card
	answerBytes        = 28
)

// Bits of the "i" parameter: [GPCS], Section E.1.1, Table E-1.
const (
	IThreeKeys     = 0x01 // three card keys; otherwise one base key for all purposes
	IUnmodified    = 0x02 // C-MAC on the unmodified APDU
	IExplicit      = 0x04 // INITIALIZE UPDATE and EXTERNAL AUTHENTICATE; otherwise neither
	IMACOverAID    = 0x08 // the first ICV is a MAC over the AID; otherwise zero
	IICVEncryption = 0x10
	IRMAC          = 0x20
	IPseudo        = 0x40 // the card challenge is pseudo-random
)

// ValidI reports whether this package serves cards of this "i" parameter.
func ValidI(i byte) bool {
	switch i {
	case 0x05, 0x15, 0x1A, 0x35, 0x45, 0x55, 0x75:
		return true
	}
	return false
}

// Level is a security level, P1 of EXTERNAL AUTHENTICATE: [GPCS], Section E.5.2.3.
type Level byte

// Parts of a Level.
const (
	CMAC        Level = 0x01
	CDecryption Level = 0x02
	RMAC        Level = 0x10
)

// ValidLevel reports whether l is one of 00, 01, 03, 11, 13 and a card with this "i"
// supports it. Implicit initiation has level 01 only, because no command could name
// another.
func ValidLevel(l Level, i byte) bool {
	if !ValidI(i) {
		return false
	}
	switch l {
	case 0x01:
		return true
	case 0x00, 0x03:
		return i&IExplicit != 0
	case 0x11, 0x13:
		return i&IRMAC != 0
	}
	return false
}

// InitializeUpdate returns the command that opens a session with the keys of version
// kvn (00: the card's default): [GPCS], Section E.5.1. The challenge has 8 bytes.
func InitializeUpdate(kvn byte, hostChallenge []byte) apdu.Command {
	return apdu.Command{CLA: 0x80, INS: 0x50, P1: kvn, Data: hostChallenge, Ne: apdu.ShortNeMax}
}

// CounterMax is the last sequence counter: after a session with it, the card needs
// other keys.
const CounterMax = 0xFFFF

// Answer is the card's answer to INITIALIZE UPDATE.
type Answer struct {
	KDD            []byte // 10 bytes
	KVN            byte
	Counter        uint16
	CardChallenge  []byte // 6 bytes
	CardCryptogram []byte // 8 bytes
}

// ParseAnswer parses the data of the answer: [GPCS], Section E.5.1.6. Another
// protocol or another length is refused with fault.InvalidInput.
func ParseAnswer(b []byte) (Answer, error) {
	if len(b) < 12 || b[11] != 0x02 {
		return Answer{}, fault.New(fault.InvalidInput, "the answer is not one of SCP02")
	}
	if len(b) != answerBytes {
		return Answer{}, fault.New(fault.InvalidInput, fmt.Sprintf("an answer of SCP02 has %d bytes", answerBytes))
	}
	return Answer{
		KDD: bytes.Clone(b[:10]), KVN: b[10], Counter: binary.BigEndian.Uint16(b[12:]),
		CardChallenge: bytes.Clone(b[14:20]), CardCryptogram: bytes.Clone(b[20:]),
	}, nil
}

// Static refers to the static keys of one card, of class StaticCBC and 2-key 3DES.
// Where the card has one base key, all three are that key. DEK may be nil where no
// key is sent to the card.
type Static struct{ ENC, MAC, DEK *derive.Key }

// Session refers to the session keys. DEK is nil if Static.DEK was.
type Session struct {
	ENC, DEK  *derive.Key
	MAC, RMAC derive.RetailKey
}

// Keys returns the session keys as a token keeps them, for its Release.
func (s Session) Keys() []*derive.Key {
	return []*derive.Key{s.ENC, s.DEK, s.MAC.Whole(), s.MAC.Left(), s.RMAC.Whole(), s.RMAC.Left()}
}

// Derivation constants: [GPCS], Section E.4.1.
const (
	constMAC  = 0x0101
	constRMAC = 0x0102
	constDEK  = 0x0181
	constENC  = 0x0182
)

// step returns the derivation of a session key: [GPCS], Section E.4.1, 3DES-CBC with a
// zero ICV over constant | sequence counter | 00*12.
func step(constant, counter uint16, c derive.Class) derive.Step {
	data := make([]byte, 16)
	binary.BigEndian.PutUint16(data, constant)
	binary.BigEndian.PutUint16(data[2:], counter)
	return derive.Step{Function: derive.CBC, Messages: [][]byte{data}, Class: c, Algorithm: key.TDEA2}
}

// SessionKeys refers to the keys of the session with this sequence counter. Challenges
// do not enter them: the same counter gives the same keys.
func SessionKeys(s Static, counter uint16) (k Session, err error) {
	for _, base := range []*derive.Key{s.ENC, s.MAC, s.DEK} {
		if base != nil && (base.Class() != derive.StaticCBC || base.Algorithm() != key.TDEA2) {
			return k, fault.New(fault.InvalidInput, "the card keys of SCP02 are 2-key 3DES keys")
		}
	}
	k.ENC = s.ENC.Derive(step(constENC, counter, derive.SessionENC))
	if s.DEK != nil {
		k.DEK = s.DEK.Derive(step(constDEK, counter, derive.DataEncryption))
	}
	if k.MAC, err = s.MAC.Retail(step(constMAC, counter, derive.SessionRetail)); err != nil {
		return k, err
	}
	k.RMAC, err = s.MAC.Retail(step(constRMAC, counter, derive.SessionRetail))
	return k, err
}

// cryptogram computes a card or host cryptogram: [GPCS], Section E.4.2, full 3DES
// MAC under S-ENC, which is the last block of CBC over 24 bytes.
func cryptogram(ctx context.Context, t derive.Token, sENC *derive.Key, parts ...[]byte) ([]byte, error) {
	out, err := t.Encrypt(ctx, sENC, derive.Pad2(bytes.Join(parts, nil), 8))
	if err != nil {
		return nil, fmt.Errorf("computing a cryptogram: %w", err)
	}
	return out[len(out)-macBytes:], nil
}

// counterBytes is the sequence counter as it is sent.
func (a Answer) counterBytes() []byte { return []byte{byte(a.Counter >> 8), byte(a.Counter)} }

// VerifyCard checks the card cryptogram of an answer to hostChallenge: [GPCS], Section
// E.4.2.1, over host challenge | sequence counter | card challenge.
func VerifyCard(ctx context.Context, t derive.Token, k Session, hostChallenge []byte, a Answer) error {
	want, err := cryptogram(ctx, t, k.ENC, hostChallenge, a.counterBytes(), a.CardChallenge)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, a.CardCryptogram) != 1 {
		return fault.Proof()
	}
	return nil
}

// VerifyChallenge checks a pseudo-random card challenge: the first 6 bytes of the
// retail MAC under the C-MAC session key over the AID of the Security Domain, 5 to 16
// bytes. [GPCS], Section E.5.1.6 leaves the algorithm to the card; this is the one
// that real cards were seen to use. The caller asks only where i & IPseudo.
func VerifyChallenge(ctx context.Context, t derive.TDEAToken, k Session, a Answer, aid []byte) error {
	mac, err := overAID(ctx, t, k, aid)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(mac[:len(a.CardChallenge)], a.CardChallenge) != 1 {
		return fault.Proof()
	}
	return nil
}

// overAID computes the C-MAC over an AID with a zero ICV.
func overAID(ctx context.Context, t derive.TDEAToken, k Session, aid []byte) ([]byte, error) {
	if len(aid) < 5 || len(aid) > 16 {
		return nil, fault.New(fault.InvalidInput, "an AID has 5 to 16 bytes")
	}
	mac, err := t.RetailMAC(ctx, k.MAC, derive.Pad2(aid, 8))
	if err != nil {
		return nil, fmt.Errorf("computing a MAC over the AID: %w", err)
	}
	return mac, nil
}

// ExternalAuthenticate returns the command that proves the host and sets the level,
// and the state that the first command of the session starts from: [GPCS], Sections
// E.4.2.2 and E.5.2. It must be called only after VerifyCard succeeded: its host
// cryptogram lets whoever holds it authenticate to the card.
func (m Messaging) ExternalAuthenticate(ctx context.Context, hostChallenge []byte, a Answer) (apdu.Command, State, error) {
	if m.I&IExplicit == 0 {
		return apdu.Command{}, State{}, fault.New(fault.InvalidInput, "the card's i parameter says implicit initiation")
	}
	host, err := cryptogram(ctx, m.Token, m.Keys.ENC, a.counterBytes(), a.CardChallenge, hostChallenge)
	if err != nil {
		return apdu.Command{}, State{}, err
	}
	cmd := apdu.Command{CLA: 0x80, INS: 0x82, P1: byte(m.Level), Data: host}
	// The command has a C-MAC whatever the level but is never encrypted; the ICV is
	// zero and not encrypted ([GPCS], Sections E.3.3 and E.3.4).
	m.Level = CMAC
	return m.Wrap(ctx, State{}, cmd)
}

// Implicit returns the state that the first command of an implicitly initiated
// session starts from: [GPCS], Section E.3.3, a MAC over the AID of the selected
// application. The caller has the sequence counter from the card (GET DATA, tag C1).
func (m Messaging) Implicit(ctx context.Context, aid []byte) (State, error) {
	if m.I&IExplicit != 0 {
		return State{}, fault.New(fault.InvalidInput, "the card's i parameter says explicit initiation")
	}
	mac, err := overAID(ctx, m.Token, m.Keys, aid)
	if err != nil {
		return State{}, err
	}
	return State{MAC: [macBytes]byte(mac)}, nil
}
