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

// Options are the points where real cards disagree. The zero value is what most
// programs do.
type Options struct {
	// PadEmpty encrypts a padding block in a command without data at levels with
	// C-DECRYPTION (pySim, kaoh/globalplatform); otherwise such a command carries only
	// its MAC (GlobalPlatformPro, openjavacard-tools, skythen).
	PadEmpty bool
}

// BlocksMax is how many blocks one session key may process: [SP 800-67] NIST SP 800-67
// Revision 2, Section 3.3, 2^20 blocks under one 3DES key.
const BlocksMax = 1 << 20

// State is what one command leaves for the next. The zero value is the state of
// EXTERNAL AUTHENTICATE.
type State struct {
	MAC     [macBytes]byte // the next ICV before encryption
	Chained bool           // MAC is a C-MAC of this session, and is encrypted if the card says so
	Blocks  uint32         // that S-MAC processed so far; S-ENC processed fewer
}

// Responses is what one response leaves for the next.
type Responses struct {
	MAC    [macBytes]byte // the ICV of the next R-MAC
	Blocks uint32         // that S-RMAC processed so far
}

// Responses returns the state that the first response of the session starts from,
// when s is the state that EXTERNAL AUTHENTICATE left: [GPCS], Section E.3.3, the ICV
// of the first R-MAC is the C-MAC of that command.
func (s State) Responses() Responses { return Responses{MAC: s.MAC} }

// Messaging secures the commands of one session.
type Messaging struct {
	Token derive.TDEAToken
	Keys  Session
	Level Level
	I     byte // the "i" parameter of the card
	Options
}

// DataMax returns how many bytes of command data fit into one command: 247 with C-MAC,
// 239 with C-DECRYPTION. SCP02 knows no extended length.
func (m Messaging) DataMax() int {
	switch {
	case m.Level&CMAC == 0:
		return apdu.ShortDataMax
	case m.Level&CDecryption == 0:
		return apdu.ShortDataMax - macBytes
	}
	return (apdu.ShortDataMax-macBytes)/8*8 - 1 // at least one byte of padding
}

// Wrap secures a command and returns the state that follows. A command that is too
// long, or has a CLA that secure messaging cannot mark, is refused with
// fault.InvalidInput and changes nothing; one beyond what the keys may process with
// fault.ChannelClosed.
func (m Messaging) Wrap(ctx context.Context, s State, c apdu.Command) (apdu.Command, State, error) {
	if m.Level&CMAC == 0 {
		return c, s, nil
	}
	if c.CLA&0x40 != 0 || c.CLA&0x0C != 0 {
		return apdu.Command{}, s, fault.New(fault.InvalidInput, "this CLA is secured already or cannot be")
	}
	if room := m.DataMax(); len(c.Data) > room || c.Extended {
		return apdu.Command{}, s, fault.New(fault.InvalidInput, fmt.Sprintf("at this security level a command has room for %d data bytes, in short form", room))
	}
	next, err := m.sign(ctx, s, c)
	if err != nil {
		return apdu.Command{}, s, err
	}
	// [GPCS], Section E.4.4: the MAC is over the plain data, which are encrypted after it.
	data := c.Data
	if m.Level&CDecryption != 0 && (len(data) > 0 || m.PadEmpty) {
		// [GPCS], Section E.4.6: 3DES-CBC with a zero ICV.
		if data, err = m.Token.Encrypt(ctx, m.Keys.ENC, derive.Pad2(data, 8)); err != nil {
			return apdu.Command{}, s, fmt.Errorf("encrypting command data: %w", err)
		}
	}
	c.CLA |= 0x04
	c.Data = append(bytes.Clone(data), next.MAC[:]...)
	return c, next, nil
}

// sign computes the C-MAC of a command.
func (m Messaging) sign(ctx context.Context, s State, c apdu.Command) (State, error) {
	mac, blocks, err := m.mac(ctx, m.commandMAC(s, c), s.Blocks)
	if err != nil {
		return s, fmt.Errorf("computing a C-MAC: %w", err)
	}
	return State{MAC: mac, Chained: true, Blocks: blocks}, nil
}

// mac computes a MAC and counts the blocks of its key.
func (m Messaging) mac(ctx context.Context, o MAC, blocks uint32) (mac [macBytes]byte, after uint32, err error) {
	message := o.message()
	after = blocks + uint32(len(message)/8)
	if after > BlocksMax {
		return mac, blocks, fault.New(fault.ChannelClosed, "the session keys have protected as much as 3DES keys may; open a new channel")
	}
	out, err := m.Token.RetailMAC(ctx, o.Key, message)
	if err != nil {
		return mac, blocks, err
	}
	return [macBytes]byte(out), after, nil
}

// Unwrap checks the response to the plain command c and returns the state that
// follows. A response that does not verify is fault.Proof(). Cards send errors with an
// R-MAC, or bare when they ended the session: a bare error is nobody's proof and moves
// nothing, so that what follows an error that was forged does not verify.
func (m Messaging) Unwrap(ctx context.Context, s Responses, c apdu.Command, r apdu.Response) (apdu.Response, Responses, error) {
	if m.Level&RMAC == 0 {
		return r, s, nil
	}
	if len(r.Data) == 0 && r.SW != apdu.Success && !r.SW.Warning() {
		return r, s, nil
	}
	o, err := m.ResponseMAC(s, c, r)
	if err != nil {
		return apdu.Response{}, s, err
	}
	want, blocks, err := m.mac(ctx, o, s.Blocks)
	if err != nil {
		return apdu.Response{}, s, fmt.Errorf("computing an R-MAC: %w", err)
	}
	if subtle.ConstantTimeCompare(want[:], o.Sent) != 1 {
		return apdu.Response{}, s, fault.Proof()
	}
	r.Data = bytes.Clone(r.Data[:len(r.Data)-macBytes])
	return r, Responses{MAC: want, Blocks: blocks}, nil
}
