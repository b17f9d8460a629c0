package scp80

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
)

const (
	answerHeadBytes = 6                // RPL | RHL | TAR
	answeredBytes   = countedBytes + 1 // CNTR | PCNTR | RSC
	// answerMax is the longest response: the longest data, check and padding.
	answerMax = answerHeadBytes + answeredBytes + 8 + DataMax + 15
)

// userDataHeader stands before a response in its short message; the check covers it.
var userDataHeader = []byte{0x02, 0x71, 0x00}

// Answer is a response packet whose body is as the card sent it.
type Answer struct {
	CheckBytes int // of the check, as RHL says
	TAR        [3]byte
	Body       []byte // CNTR | PCNTR | RSC | check | data | padding; ciphered, if it is
}

// ParseAnswer reads a response packet, from RPL on. Lengths that do not fit each other
// are fault.InvalidInput.
func ParseAnswer(b []byte) (Answer, error) {
	bad := fault.New(fault.InvalidInput, "this is no response packet")
	if len(b) < answerHeadBytes+answeredBytes || len(b) > answerMax {
		return Answer{}, bad
	}
	n := int(b[2]) - (answerHeadBytes - 3) - answeredBytes // RHL without TAR, CNTR, PCNTR and RSC
	if int(binary.BigEndian.Uint16(b)) != len(b)-2 || n < 0 || n > 8 || len(b) < answerHeadBytes+answeredBytes+n {
		return Answer{}, bad
	}
	return Answer{CheckBytes: n, TAR: [3]byte(b[3:6]), Body: bytes.Clone(b[answerHeadBytes:])}, nil
}

// Encode returns the packet.
func (a Answer) Encode() []byte { return append(a.head(), a.Body...) }

func (a Answer) head() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(answerHeadBytes-2+len(a.Body)))
	b = append(b, byte(answerHeadBytes-3+answeredBytes+a.CheckBytes))
	return append(b, a.TAR[:]...)
}

// Status is the response status code (RSC).
type Status byte

// StatusOK is the status of a command that was unpacked and handed over; what came of
// it stands in the data.
const StatusOK Status = 0

// Response is what a card answered.
type Response struct {
	Counter uint64 // of the command that is answered
	Status  Status
	Data    []byte
	Proved  bool // by a CC; without one anybody may have made it
}

// Open deciphers and checks the response to a command whose header was h. A response
// that is not secured as the header asks for is no proof either: cards answer so to what
// they could not check, and so does everybody else.
func (a Answer) Open(ctx context.Context, t derive.Token, k Keys, h Header) (Response, error) {
	check := h.SPI.AnswerCheck()
	if err := h.valid(k, check, h.SPI.AnswerCiphered()); err != nil {
		return Response{}, err
	}
	if a.CheckBytes != h.checkBytes(check) || a.TAR != h.TAR {
		return Response{}, fault.Proof()
	}
	plain, err := a.decipher(ctx, t, k.KIc, h)
	if err != nil {
		return Response{}, err
	}
	counted, rest := plain[:answeredBytes], plain[answeredBytes:]
	got, text := rest[:a.CheckBytes], rest[a.CheckBytes:]
	want, err := h.check(ctx, t, k.KID, check, join(userDataHeader, a.head(), counted, text))
	if err != nil {
		return Response{}, fmt.Errorf("computing the check of a response: %w", err)
	}
	// PCNTR is judged after the check and in the same words, so that no answer tells
	// what a forged packet deciphers to.
	pad := int(counted[counterBytes])
	if subtle.ConstantTimeCompare(got, want) != 1 || pad > h.padMax(k) || pad > len(text) {
		return Response{}, fault.Proof()
	}
	n := binary.BigEndian.Uint64(append(make([]byte, 8-counterBytes), counted[:counterBytes]...))
	return Response{Counter: n, Status: Status(counted[countedBytes]), Data: bytes.Clone(text[:len(text)-pad]), Proved: check == CC}, nil
}

// padMax is the longest padding of a response: none where nothing is ciphered.
func (h Header) padMax(k Keys) int {
	if !h.SPI.AnswerCiphered() {
		return 0
	}
	return derive.BlockSize(k.KIc.Algorithm()) - 1
}

// decipher returns the plain body.
func (a Answer) decipher(ctx context.Context, t derive.Token, kic *derive.Key, h Header) ([]byte, error) {
	if !h.SPI.AnswerCiphered() {
		return a.Body, nil
	}
	if err := Decipherable(h.SPI, kic); err != nil {
		return nil, err
	}
	size := derive.BlockSize(kic.Algorithm())
	if len(a.Body)%size != 0 {
		return nil, fault.Proof()
	}
	plain, err := t.Decrypt(ctx, kic, make([]byte, size), a.Body)
	if err == nil && len(plain) != len(a.Body) {
		err = errLength
	}
	if err != nil {
		return nil, fmt.Errorf("deciphering a response: %w", err)
	}
	return plain, nil
}

// Decipherable refuses, with fault.TokenUnable, an SPI that asks for a response that no
// token deciphers: ask before the command is sent.
func Decipherable(s SPI, kic *derive.Key) error {
	if s.Answered() && s.AnswerCiphered() && kic.Algorithm().TDEA() {
		return fault.New(fault.TokenUnable, "3DES keys of the token do not decrypt, so that a response must not be ciphered with one")
	}
	return nil
}
