package scp03

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
	Key      *derive.Key
	Chaining [16]byte
	Header   []byte // of a command: four bytes
	Lc       []byte // of a command
	Data     []byte // as sent
	After    []byte // of a response: the status word
	Sent     []byte // 8 or 16 bytes
}

// compute returns all 16 bytes of a MAC.
func (o MAC) compute(ctx context.Context, t derive.Token) ([]byte, error) {
	return t.MAC(ctx, o.Key, bytes.Join([][]byte{o.Chaining[:], o.Header, o.Lc, o.Data, o.After}, nil))
}

// Verify returns fault.Proof() if the MAC was not computed so, or if what was sent has not
// the length of one: nothing equals the first 0 bytes of every MAC. The MAC of a command
// is the chaining value that follows.
func (o MAC) Verify(ctx context.Context, t derive.Token) (chaining [16]byte, err error) {
	if n := Mode(len(o.Sent)); n != S8 && n != S16 {
		return chaining, fault.Proof()
	}
	want, err := o.compute(ctx, t)
	if err != nil {
		return chaining, fmt.Errorf("computing a MAC: %w", err)
	}
	if subtle.ConstantTimeCompare(want[:len(o.Sent)], o.Sent) != 1 {
		return chaining, fault.Proof()
	}
	return [16]byte(want), nil
}

// commandMAC says what the C-MAC of a command is over that has its data as they are
// sent: [AmdD], Section 6.2.4, the header with the secure messaging bit set and the
// logical channel removed, and Lc including the MAC in the form in which it is sent; not
// Le.
func (m Messaging) commandMAC(s State, c apdu.Command) MAC {
	return MAC{
		Key: m.Keys.MAC, Chaining: s.Chaining, Header: []byte{c.CLA&0xF0 | 0x04, c.INS, c.P1, c.P2},
		Lc: c.Lc(len(c.Data) + int(m.Mode)), Data: c.Data,
	}
}

// Received takes a secured command apart as the card does that has state s, and returns
// its MAC, not verified, and the state that follows but for the chaining value. A
// command that is not secured is refused with fault.InvalidInput.
func (m Messaging) Received(s State, c apdu.Command) (MAC, State, error) {
	n := len(c.Data) - int(m.Mode)
	if m.Level&CMAC == 0 || c.CLA&0x44 != 0x04 || n < 0 {
		return MAC{}, s, fault.New(fault.InvalidInput, "the command is not secured at this security level")
	}
	sent := c.Data[n:]
	c.Data = c.Data[:n]
	o := m.commandMAC(s, c)
	o.Sent = sent
	return o, m.counted(s, c), nil
}

// counted returns the state with the encryption counter of a command.
func (m Messaging) counted(s State, c apdu.Command) State {
	if len(c.Data) > 0 || !m.SkipEmpty {
		s.Counter++
	}
	return s
}

// ResponseMAC returns the R-MAC, not verified, of the response to the command that left
// state s: [AmdD], Section 6.2.5, over the data as sent and the status word. A response
// that is too short for it is fault.Proof().
func (m Messaging) ResponseMAC(s State, r apdu.Response) (MAC, error) {
	n := len(r.Data) - int(m.Mode)
	if n < 0 {
		return MAC{}, fault.Proof()
	}
	return MAC{
		Key: m.Keys.RMAC, Chaining: s.Chaining, Data: r.Data[:n], After: []byte{byte(r.SW >> 8), byte(r.SW)}, Sent: r.Data[n:],
	}, nil
}

// Plain decrypts the data under a MAC, given the state that the command left that it is
// of or answers. Data that are not encrypted so are fault.Proof(). What it returns of data
// whose MAC did not verify tells whoever learns of it about the padding.
func (m Messaging) Plain(ctx context.Context, s State, o MAC) ([]byte, error) {
	first := byte(0) // [AmdD], Section 6.2.6: of a command the counter itself
	if o.Header == nil {
		first = 0x80 // Section 6.2.7
	}
	if len(o.Data)%16 != 0 {
		return nil, fault.Proof()
	}
	icv, err := m.Token.Encrypt(ctx, m.Keys.ENC, counterBlock(first, s.Counter))
	if err != nil {
		return nil, fmt.Errorf("computing the ICV of data: %w", err)
	}
	plain, err := m.Token.Decrypt(ctx, m.Keys.ENC, icv, o.Data)
	if err != nil {
		return nil, fmt.Errorf("decrypting data: %w", err)
	}
	// Cards exist that pad by more than one block, so any number of zeros is removed.
	end := bytes.LastIndexByte(plain, 0x80)
	if end < 0 || len(bytes.Trim(plain[end+1:], "\x00")) != 0 {
		return nil, fault.Proof()
	}
	return plain[:end], nil
}
