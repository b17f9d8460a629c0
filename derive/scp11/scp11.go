// Package scp11 computes the authentication of Secure Channel Protocol '11'.
//
// It follows [AmdF] GlobalPlatform Card Technology, Secure Channel Protocol '11', Card
// Specification v2.3 – Amendment F. The specification itself was not at hand: layouts are
// those on which yubikit (which names versions 1.3 and 1.4 of it) and kaoh/globalplatform
// agree, and no section of it is cited. Host and card agree on two secrets on P-256; AES-128 keys
// follow from both, and a receipt proves that the card has them:
//
//	Z       = ECDH(eSK.OCE, ePK.SD) | ECDH(SK.OCE, PK.SD)     SCP11b: eSK.OCE in both
//	keys    = X9.63-SHA-256(Z, 3C | 88 | 10): receipt key, S-ENC, S-MAC, S-RMAC, DEK, 16 bytes each
//	receipt = AES-CMAC(receipt key, command data | 5F49 41 ePK.SD)
//
// Then messages are secured as in SCP03 at level 33 with MACs of 8 bytes, the receipt being
// the first MAC chaining value; derive/scp03 does that. The command is
//
//	SCP11a, c  80 82 KVN KID   MUTUAL AUTHENTICATE, after the host's certificates went to the
//	                           card by PERFORM SECURITY OPERATION (80 2A)
//	SCP11b     80 88 KVN KID   INTERNAL AUTHENTICATE
//	data       A6 0D { 90 02 11 pp | 95 01 3C | 80 01 88 | 81 01 10 } | 5F49 41 ePK.OCE
//
// where pp is 01, 00, 03 and KID is 11, 13, 15 for a, b, c. For example the command of b for
// KVN 01 begins 80 88 01 13 53 A60D90021100 95013C 800188 810110 5F4941 04…. The parser
// accepts the answer
//
//	5F49 41 ePK.SD (04 | x | y, on the curve) | 86 10 receipt
//
// of 86 bytes and nothing else. It keeps no state. Certificates are X.509 ([RFC 5280]), as
// current cards have them; GlobalPlatform's own format (7F21) is left out, as are other
// curves, AES-192 and 256, host and card identifiers in the SharedInfo, DEK, which only PUT
// KEY needs, and what the card does without the host being there (the scripts of SCP11c).
//
// A failed proof is fault.Proof(), compared in constant time.
//
// BUG: SCP11b does not prove the host: whoever reaches the card can open such a channel to
// it, and the card cannot tell who did. It proves the card to the host, and nobody but these
// two reads or changes what is sent. What such a channel may do is the card's to limit.
package scp11

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/subtle"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Variant is one of the three protocols; zero is none.
type Variant byte

// The variants.
const (
	A Variant = 'a' // both sides prove themselves
	B Variant = 'b' // the card proves itself
	C Variant = 'c' // as a; the card may use its static key in both agreements
)

// HostProven reports whether the host proves itself to the card, which needs a pair of its
// own that a certificate vouches for.
func (v Variant) HostProven() bool { return v == A || v == C }

// codes are what the command says of a variant: its instruction, the identifier of the
// card's key, and the parameter in the data.
func (v Variant) codes() (ins, kid, parameter byte) {
	switch v {
	case A:
		return 0x82, 0x11, 0x01
	case B:
		return 0x88, 0x13, 0x00
	case C:
		return 0x82, 0x15, 0x03
	}
	panic(fmt.Sprintf("scp11: no variant %d", v))
}

// Level is the security level of a session: C-MAC, C-DECRYPTION, R-MAC and R-ENCRYPTION.
const Level scp03.Level = 0x33

const (
	keyUsage = 0x3C // what Level says
	keyType  = 0x88 // AES
	keyBytes = 16
)

// sharedInfo is the SharedInfo of the key derivation: usage, type and length of the keys.
var sharedInfo = []byte{keyUsage, keyType, keyBytes}

const (
	tagControl apdu.Tag = 0xA6
	tagPoint   apdu.Tag = 0x5F49
	tagReceipt apdu.Tag = 0x86
)

// Authenticate returns MUTUAL AUTHENTICATE, or INTERNAL AUTHENTICATE of SCP11b, for the
// card's key of this version and the host's ephemeral public key.
func (v Variant) Authenticate(kvn byte, ephemeral *ecdh.PublicKey) apdu.Command {
	ins, kid, parameter := v.codes()
	control := []byte{0x90, 0x02, 0x11, parameter, 0x95, 0x01, keyUsage, 0x80, 0x01, keyType, 0x81, 0x01, keyBytes}
	data := apdu.AppendTLV(apdu.AppendTLV(nil, tagControl, control), tagPoint, ephemeral.Bytes())
	return apdu.Command{CLA: 0x80, INS: ins, P1: kvn, P2: kid, Data: data, Ne: apdu.ShortNeMax}
}

// Reference names a key of the card: the one of the authority that certified the host.
type Reference struct{ KVN, KID byte }

// Certify returns PERFORM SECURITY OPERATION for each certificate of the host, in DER, those
// of issuers first and the host's own last: P1 is the version of the authority's key, P2 its
// identifier, with 80 while more certificates follow. One that does not fit into a command is
// sent by command chaining ([7816-4] ISO/IEC 7816-4:2020, Section 5.3.3, CLA 10).
func Certify(ca Reference, chain [][]byte, extended bool) (out []apdu.Command) {
	for i, der := range chain {
		c := apdu.Command{CLA: 0x80, INS: 0x2A, P1: ca.KVN, P2: ca.KID | 0x80}
		if i == len(chain)-1 {
			c.P2 = ca.KID
		}
		for ; !extended && len(der) > apdu.ShortDataMax; der = der[apdu.ShortDataMax:] {
			part := c
			part.CLA, part.Data = part.CLA|0x10, der[:apdu.ShortDataMax]
			out = append(out, part)
		}
		c.Data, c.Extended = der, len(der) > apdu.ShortDataMax
		out = append(out, c)
	}
	return out
}

// Answer is the card's answer to MUTUAL or INTERNAL AUTHENTICATE.
type Answer struct {
	Ephemeral *ecdh.PublicKey // ePK.SD, on the curve
	Receipt   [16]byte
}

var errAnswer = fault.New(fault.InvalidInput, "the answer is not one of SCP11 on P-256")

// ParseAnswer parses the data of the answer. What is not exactly a point of the curve and a
// receipt is refused with fault.InvalidInput.
func ParseAnswer(b []byte) (a Answer, err error) {
	objects, err := apdu.ParseTLVs(b)
	if err != nil || len(objects) != 2 || objects[0].Tag != tagPoint || objects[1].Tag != tagReceipt || len(objects[1].Value) != len(a.Receipt) {
		return Answer{}, errAnswer
	}
	if a.Ephemeral, err = Point(objects[0].Value); err != nil {
		return Answer{}, errAnswer
	}
	copy(a.Receipt[:], objects[1].Value)
	return a, nil
}

// Point reads an uncompressed point of P-256. One that is not on the curve would show a
// secret bit by bit ([SP 800-56A], Section 5.6.2.3.3).
func Point(b []byte) (*ecdh.PublicKey, error) {
	p, err := ecdh.P256().NewPublicKey(b)
	if err != nil {
		return nil, fault.New(fault.InvalidInput, "this is no point of P-256")
	}
	return p, nil
}

// Host is what the host agrees with.
type Host struct {
	Ephemeral *derive.Key // eSK.OCE
	Static    *derive.Key // SK.OCE; nil in SCP11b
}

// Secret has the token agree on Z with a card whose certificate has this public key.
func (h Host) Secret(ctx context.Context, t derive.Agreer, card *ecdh.PublicKey, a Answer) (*derive.Key, error) {
	ours := [2]*derive.Key{h.Ephemeral, h.Static}
	if h.Static == nil {
		ours[1] = h.Ephemeral
	}
	z, err := t.Agree(ctx, ours, [2]*ecdh.PublicKey{a.Ephemeral, card})
	if err != nil {
		return nil, fmt.Errorf("agreeing on a secret: %w", err)
	}
	return z, nil
}

// Keys refers to the keys that follow from a secret, and to the one of the receipt.
func Keys(z *derive.Key) (receipt *derive.Key, s scp03.Session) {
	at := func(i byte, c derive.Class) *derive.Key {
		return z.Derive(derive.Step{Function: derive.X963, After: sharedInfo, Offset: i * keyBytes, Class: c, Algorithm: key.AES128})
	}
	return at(0, derive.SessionMAC), scp03.Session{ENC: at(1, derive.SessionENC), MAC: at(2, derive.SessionMAC), RMAC: at(3, derive.SessionMAC)}
}

// Verify checks the receipt of an answer to a command of Authenticate, and returns the state
// from which the first command of the session starts.
func Verify(ctx context.Context, t derive.Token, receipt *derive.Key, sent apdu.Command, a Answer) (scp03.State, error) {
	want, err := t.MAC(ctx, receipt, apdu.AppendTLV(bytes.Clone(sent.Data), tagPoint, a.Ephemeral.Bytes()))
	if err != nil {
		return scp03.State{}, fmt.Errorf("computing a receipt: %w", err)
	}
	if subtle.ConstantTimeCompare(want, a.Receipt[:]) != 1 {
		return scp03.State{}, fault.Proof()
	}
	return scp03.State{Chaining: a.Receipt}, nil
}
