// Package scp80 secures the packets of remote management over the air: command
// packets for a card, and the card's proofs of receipt (PoR).
//
// It follows [102225] ETSI TS 102 225, Secured packet structure for UICC based
// applications, in the dialect of short messages, [31115] 3GPP TS 31.115. The
// documents are cited by name only: the layouts below are those on which independent
// implementations agree (pySim, gsm0348, asterix) and which real cards accepted, see
// testdata.
//
//	command   CPL (2) | CHL (1) | SPI (2) | KIc (1) | KID (1) | TAR (3) | { CNTR (5) | PCNTR (1) | check | data | padding }
//	response  RPL (2) | RHL (1) | TAR (3) | { CNTR (5) | PCNTR (1) | RSC (1) | check | data | padding }
//
// CPL and RPL count everything after themselves, CHL and RHL everything after
// themselves up to the check. Braces hold what is ciphered, if it is, by CBC with a
// zero IV; padding is zeros, counted by PCNTR, and only there is any. The check is
// computed over the packet before ciphering, padding included, with its own field left
// out; that of a response covers 02 71 00 in front of the packet, the user data header
// of its short message. The checks, by KID:
//
//	RC  CRC-16 or CRC-32, no proof of anything
//	CC  the first 8 bytes of AES-CMAC, or the last block of CBC under 3DES, zeros added
//
// CBC without a last step of its own is a sound MAC only where no message begins
// another: they begin with their length, and no command with 02 71 00.
//
// As an example, the packet with SPI 12 01, KIc and KID 25, TAR C00000 and counter 1
// for the command A0A40000023F00 is
//
//	001D 15 1201 25 25 C00000 0000000001 00 4FBDB3740E950C28 A0A40000023F00
//
// It computes on references: keys are inside the token, in the sense of package
// derive. It leaves out digital signatures, single DES, packets without known
// algorithms, other bearers than short messages, and who may send what; it keeps no
// counter, so the caller must, or cards refuse or, worse, repeat. A response that is
// ciphered with 3DES is fault.TokenUnable: 3DES keys of a token do not decrypt.
//
// Proofs are compared in constant time, and every failed proof is fault.Proof().
// Functions may be called by several goroutines.
package scp80

import (
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// DataMax bounds the data of one packet: cards take a few short messages that belong
// together.
const DataMax = 1024

// CounterMax is the greatest CNTR of 5 bytes. A card blocks at it.
const CounterMax = 0xFFFFFFFFFF

// SPI is the security parameter indicator: the first byte says how a command is
// secured, the second how it is answered.
type SPI [2]byte

// Check is the kind of a packet's check.
type Check byte

// The kinds of checks.
const (
	NoCheck   Check = 0 // anybody makes and alters packets
	RC        Check = 1 // redundancy check
	CC        Check = 2 // cryptographic checksum
	Signature Check = 3 // not served
)

// Counting is what a card does with the counter of a command.
type Counting byte

// What a card does with the counter.
const (
	NoCounter Counting = 0
	Unchecked Counting = 1
	Higher    Counting = 2 // refuse one that is not higher than the last
	OneHigher Counting = 3 // refuse one that is not the next
)

// Check returns the kind of check of the command.
func (s SPI) Check() Check { return Check(s[0] & 0x03) }

// Ciphered reports whether the command is ciphered.
func (s SPI) Ciphered() bool { return s[0]&0x04 != 0 }

// Counting returns what the card does with the counter of the command.
func (s SPI) Counting() Counting { return Counting(s[0] >> 3 & 0x03) }

// Answered reports whether the card answers, always or on an error.
func (s SPI) Answered() bool { return s[1]&0x03 != 0 }

// AnswerCheck returns the kind of check of the response.
func (s SPI) AnswerCheck() Check { return Check(s[1] >> 2 & 0x03) }

// AnswerCiphered reports whether the response is ciphered.
func (s SPI) AnswerCiphered() bool { return s[1]&0x10 != 0 }

// valid refuses what is reserved and what is not served.
func (s SPI) valid() error {
	if s[0]&0xE0 != 0 || s[1]&0xC0 != 0 || s[1]&0x03 == 3 {
		return fault.New(fault.InvalidInput, "the SPI has bits that are reserved")
	}
	if s.Check() == Signature || s.AnswerCheck() == Signature {
		return fault.New(fault.InvalidInput, "digital signatures are not served")
	}
	return nil
}

// Algorithms in the low half of KIc and KID; the high half is the number of the key.
const (
	algAES   = 0x02 // CBC in KIc, CMAC in KID
	algTDEA2 = 0x05
	algTDEA3 = 0x09
	rcCRC16  = 0x01 // in the KID of a packet with an RC
	rcCRC32  = 0x05
)

// KeyByte returns KIc, or KID of a packet with a CC, for the key with this number, 1
// to 15.
func KeyByte(number byte, a key.Algorithm) byte {
	switch a {
	case key.TDEA2:
		return number<<4 | algTDEA2
	case key.TDEA3:
		return number<<4 | algTDEA3
	}
	return number<<4 | algAES
}

// Header says how a packet is secured and which application gets it.
type Header struct {
	SPI      SPI
	KIc, KID byte
	TAR      [3]byte
	// CCBytes is the length of a CC by AES-CMAC: 8, which 0 means too, or 4.
	CCBytes int
}

// Keys are the keys of a card that a packet needs.
type Keys struct {
	KIc *derive.Key // class SessionENC; nil where nothing is ciphered
	// KID is of class SessionMAC for AES, SessionENC for 3DES, whose MAC is a part of
	// what it encrypts; nil where nothing has a CC.
	KID *derive.Key
}

// fits refuses a key that is not the one that the byte in the header asks for.
func fits(what string, named byte, k *derive.Key, aes derive.Class) error {
	if k == nil {
		return fault.New(fault.InvalidInput, what+" is missing")
	}
	class, want := derive.SessionENC, named&0x0F
	if !k.Algorithm().TDEA() {
		class = aes
	}
	if k.Class() != class || KeyByte(0, k.Algorithm()) != want {
		return fault.New(fault.InvalidInput, fmt.Sprintf("%s %02X does not name a key of type %s, or one that is served", what, named, k.Algorithm()))
	}
	return nil
}

// valid refuses a header that is not served, or not with these keys. check and ciphered
// are those of the direction.
func (h Header) valid(k Keys, check Check, ciphered bool) error {
	if err := h.SPI.valid(); err != nil {
		return err
	}
	if h.CCBytes != 0 && h.CCBytes != 4 && h.CCBytes != 8 {
		return fault.New(fault.InvalidInput, "a CC by AES-CMAC has 8 or 4 bytes")
	}
	if ciphered {
		if err := fits("KIc", h.KIc, k.KIc, derive.SessionENC); err != nil {
			return err
		}
	}
	switch check {
	case CC:
		return fits("KID", h.KID, k.KID, derive.SessionMAC)
	case RC:
		if a := h.KID & 0x0F; a != rcCRC16 && a != rcCRC32 {
			return fault.New(fault.InvalidInput, "KID names no redundancy check that is served")
		}
	}
	return nil
}
