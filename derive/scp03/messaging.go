package scp03

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Options are the points where real cards disagree. The zero value is what most
// cards and programs do.
type Options struct {
	// PadEmpty encrypts a padding block in a command without data at levels with
	// C-DECRYPTION (yubikit); otherwise such a command carries only its MAC
	// (GlobalPlatformPro, kaoh/globalplatform, pySim, skythen).
	PadEmpty bool
	// SkipEmpty leaves the encryption counter as it is for a command without
	// data: the "buggy counter" of some cards.
	SkipEmpty bool
	// ShortOnly refuses a command that fits the short form only without its
	// protection; otherwise such a command is sent in extended form.
	ShortOnly bool
}

// State is what one command leaves for the next.
type State struct {
	Chaining [16]byte // MAC chaining value, whole in both modes
	Counter  uint32   // encryption counter: commands since EXTERNAL AUTHENTICATE
}

// Messaging secures the commands of one session.
type Messaging struct {
	Token derive.Token
	Keys  Session
	Level Level
	Mode  Mode
	Options
}

// DataMax returns how many bytes of command data fit into one command whose
// form carries at most formMax bytes: 247 in short form at level 01, 239 with
// C-DECRYPTION; 239 and 223 in S16 mode.
func (m Messaging) DataMax(formMax int) int {
	if m.Level&CMAC == 0 {
		return formMax
	}
	room := formMax - int(m.Mode)
	if m.Level&CDecryption != 0 {
		room = room/16*16 - 1 // at least one byte of padding
	}
	return room
}

// Wrap secures a command and returns the state that follows. A command that is
// too long, or has a CLA that secure messaging cannot mark, is refused with
// fault.InvalidInput and changes nothing.
func (m Messaging) Wrap(ctx context.Context, s State, c apdu.Command) (apdu.Command, State, error) {
	if m.Level&CMAC == 0 {
		return c, s, nil
	}
	if c.CLA&0x40 != 0 || c.CLA&0x0C != 0 {
		return apdu.Command{}, s, fault.New(fault.InvalidInput, "this CLA is secured already or cannot be")
	}
	if len(c.Data) > m.DataMax(apdu.ShortDataMax) && !m.ShortOnly {
		c.Extended = true
	}
	if room := m.DataMax(c.DataMax()); len(c.Data) > room {
		return apdu.Command{}, s, fault.New(fault.InvalidInput, fmt.Sprintf("at this security level the command has room for %d data bytes", room))
	}
	s = m.counted(s, c)
	if m.Level&CDecryption != 0 && (len(c.Data) > 0 || m.PadEmpty) {
		data, err := m.encrypt(ctx, s.Counter, c.Data)
		if err != nil {
			return apdu.Command{}, s, err
		}
		c.Data = data
	}
	mac, err := m.commandMAC(s, c).compute(ctx, m.Token)
	if err != nil {
		return apdu.Command{}, s, fmt.Errorf("computing a C-MAC: %w", err)
	}
	copy(s.Chaining[:], mac)
	c.CLA |= 0x04
	c.Data = append(bytes.Clone(c.Data), mac[:m.Mode]...)
	return c, s, nil
}

// encrypt applies C-DECRYPTION: [AmdD], Section 6.2.6, AES-CBC with
// ICV = AES(S-ENC, counter). CBC with a zero IV over counter | data starts with
// exactly that ICV, so one call of the token does both.
func (m Messaging) encrypt(ctx context.Context, counter uint32, data []byte) ([]byte, error) {
	in := append(counterBlock(0, counter), derive.Pad2(data, 16)...)
	out, err := m.Token.Encrypt(ctx, m.Keys.ENC, in)
	if err != nil {
		return nil, fmt.Errorf("encrypting command data: %w", err)
	}
	return out[16:], nil
}

func counterBlock(first byte, counter uint32) []byte {
	b := make([]byte, 16)
	b[0] = first
	binary.BigEndian.PutUint32(b[12:], counter)
	return b
}

// Unwrap checks and decrypts the response to the command that left state s.
// [AmdD], Sections 6.2.5 and 6.2.7: success and warnings carry an R-MAC, errors
// carry nothing. A response that does not verify is fault.Proof().
func (m Messaging) Unwrap(ctx context.Context, s State, r apdu.Response) (apdu.Response, error) {
	if m.Level&RMAC == 0 {
		return r, nil
	}
	if r.SW != apdu.Success && !r.SW.Warning() {
		if len(r.Data) > 0 {
			return apdu.Response{}, fault.Proof()
		}
		return r, nil
	}
	o, err := m.ResponseMAC(s, r)
	if err != nil {
		return apdu.Response{}, err
	}
	if _, err := o.Verify(ctx, m.Token); err != nil {
		return apdu.Response{}, err
	}
	r.Data = bytes.Clone(o.Data)
	if m.Level&REncryption != 0 && len(o.Data) > 0 {
		// The R-MAC has verified, so the padding tells an attacker nothing.
		if r.Data, err = m.Plain(ctx, s, o); err != nil {
			return apdu.Response{}, err
		}
	}
	return r, nil
}
