package scp02

import (
	"bytes"
	"context"
	"crypto/subtle"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// MAC is a C-MAC or an R-MAC: what it is over, part by part in the order in which it is
// computed, and what was sent of it. Whoever asks how else a MAC may have been computed
// changes parts and verifies again; nothing makes one of a changed MAC.
type MAC struct {
	Key         derive.RetailKey
	ICV         [macBytes]byte
	EncryptICV  bool   // before it is used
	Header      []byte // of the command: four bytes
	Lc          []byte // of the command
	Data        []byte // of the command, plain
	Answer      []byte // of a response: the length of its data, and these
	After       []byte // of a response: the status word
	PaddedTwice bool   // as GlobalPlatformPro computes an R-MAC
	Sent        []byte // 8 bytes

	// Encrypted says that Data are as sent. What such a MAC is over nobody knows here,
	// where no 3DES key decrypts.
	Encrypted bool
}

// message returns what the retail MAC is over: [GPCS], Section E.4.4.
func (o MAC) message() []byte {
	message := derive.Pad2(bytes.Join([][]byte{o.Header, o.Lc, o.Data, o.Answer, o.After}, nil), 8)
	if o.PaddedTwice {
		message = derive.Pad2(message, 8)
	}
	if o.EncryptICV {
		// [GPCS], Section E.3.4: the ICV is encrypted with single DES under the left half
		// of the key. That is what the MAC does to a first block, with a zero ICV.
		return append(o.ICV[:], message...)
	}
	subtle.XORBytes(message, message, o.ICV[:])
	return message
}

// Verify returns fault.Proof() if the MAC was not computed so, and fault.TokenUnable if
// its data are encrypted. The MAC is the next ICV before encryption.
func (o MAC) Verify(ctx context.Context, t derive.TDEAToken) (mac [macBytes]byte, err error) {
	if o.Encrypted {
		return mac, fault.New(fault.TokenUnable, "the MAC is over data that are encrypted, and 3DES keys decrypt nothing here")
	}
	want, err := t.RetailMAC(ctx, o.Key, o.message())
	if err != nil {
		return mac, fmt.Errorf("computing a MAC: %w", err)
	}
	if subtle.ConstantTimeCompare(want, o.Sent) != 1 { // nor where the lengths differ
		return mac, fault.Proof()
	}
	return [macBytes]byte(want), nil
}

// commandMAC says what the C-MAC of a command is over: [GPCS], Section E.4.4, the header
// with the logical channel removed, and the plain data; not Le.
func (m Messaging) commandMAC(s State, c apdu.Command) MAC {
	o := MAC{
		Key: m.Keys.MAC, ICV: s.MAC, EncryptICV: s.Chained && m.I&IICVEncryption != 0,
		Header: []byte{c.CLA &^ 0x07, c.INS, c.P1, c.P2}, Lc: c.Lc(len(c.Data)), Data: c.Data,
	}
	if m.I&IUnmodified == 0 {
		// The secure messaging bit set, Lc including the MAC.
		o.Header[0] |= 0x04
		o.Lc = c.Lc(len(c.Data) + macBytes)
	}
	return o
}

// Received takes a secured command apart that state s comes before, and returns its MAC,
// not verified. A command that is not secured is refused with fault.InvalidInput.
func (m Messaging) Received(s State, c apdu.Command) (MAC, error) {
	n := len(c.Data) - macBytes
	if m.Level&CMAC == 0 || c.CLA&0x4C != 0x04 || n < 0 || c.Extended {
		return MAC{}, fault.New(fault.InvalidInput, "the command is not secured at this security level")
	}
	sent := c.Data[n:]
	c.Data = c.Data[:n]
	o := m.commandMAC(s, c)
	o.Sent, o.Encrypted = sent, m.Level&CDecryption != 0 && n > 0
	return o, nil
}

// ResponseMAC returns the R-MAC, not verified, of the response to the plain command c:
// [GPCS], Section E.4.5, over that command without secure messaging, the length of the
// response modulo 256, its data and its status word. A response that is too short for it
// is fault.Proof().
func (m Messaging) ResponseMAC(s Responses, c apdu.Command, r apdu.Response) (MAC, error) {
	n := len(r.Data) - macBytes
	if n < 0 {
		return MAC{}, fault.Proof()
	}
	return MAC{
		Key: m.Keys.RMAC, ICV: s.MAC, Header: []byte{c.CLA &^ 0x07, c.INS, c.P1, c.P2}, Lc: []byte{byte(len(c.Data))}, Data: c.Data,
		Answer: append([]byte{byte(n)}, r.Data[:n]...), After: []byte{byte(r.SW >> 8), byte(r.SW)}, Sent: r.Data[n:],
	}, nil
}
