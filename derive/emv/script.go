package emv

import (
	"context"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Encipherment is how the data of a script's command is encrypted.
type Encipherment string

// The encipherments.
const (
	// CBC is that of [EMV2], Section 9.3, as M/Chip uses it: 3DES-CBC with a zero IV;
	// padding method 2 only where the data is no whole number of blocks.
	CBC Encipherment = "cbc"
	// ECB is that of Visa: 3DES-ECB over length (1) | data, padding method 2.
	ECB Encipherment = "ecb"
	// CBCPadded is that of the Common Core Definitions: CBC with a zero IV and always
	// padding method 2 ([EMV2], Section 9.3.3), as jPOS has it under 3DES, and card42 under
	// AES as well. Experimental.
	CBCPadded Encipherment = "cbc-padded"
)

// Encipher encrypts the data of one command under a SessionENC key.
func Encipher(ctx context.Context, t derive.Token, k *derive.Key, e Encipherment, data []byte) ([]byte, error) {
	if len(data) == 0 || len(data) > apdu.ShortDataMax-16 {
		return nil, fault.New(fault.InvalidInput, "there is no data to encrypt, or too much for one command")
	}
	switch e {
	case CBC:
		in := data
		if len(data)%8 != 0 {
			in = Padding2.pad(data)
		}
		return t.Encrypt(ctx, k, in)
	case ECB:
		var out []byte
		for in := Padding2.pad(append([]byte{byte(len(data))}, data...)); len(in) > 0; in = in[8:] {
			block, err := t.Encrypt(ctx, k, in[:8]) // one block of CBC with a zero IV
			if err != nil {
				return nil, err
			}
			out = append(out, block...)
		}
		return out, nil
	case CBCPadded:
		return t.Encrypt(ctx, k, derive.Pad2(data, derive.BlockSize(k.Algorithm())))
	}
	return nil, fault.New(fault.InvalidInput, "data is encrypted in the way cbc, ecb or cbc-padded")
}

// MACBytes is the length of the MAC of a script's command that this package makes.
const MACBytes = 8

// Command is one command of an issuer script before it is secured. Class and
// instruction are those of the plain command.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	Encipher         bool // Data is confidential
}

// Keys are the session keys of one script command.
type Keys struct {
	MAC MACKey
	ENC *derive.Key // nil where nothing is encrypted
}

// Script is what an issuer tells a card.
type Script struct {
	SMI, SMC Master // of integrity and confidentiality
	Input    Input  // of the transaction
	Commands []Command
}

// SecureScript returns the commands of a script, secured in their order, and the keys that
// it used, also with an error. In Format 2 each command has keys of its own; in Format 1
// one pair of keys serves the script, and each MAC covers the one before.
func (p Profile) SecureScript(ctx context.Context, t derive.TDEAToken, s Script) (out [][]byte, used []*derive.Key, err error) {
	chain := s.Input.ARQC
	for n, c := range s.Commands {
		seed := s.Input
		if !p.Format1 {
			seed = seed.Next(n)
		}
		keys, err := p.Keys(s.SMI, s.SMC, seed)
		if err != nil {
			return nil, used, err
		}
		used = append(append(used, keys.MAC.Keys()...), keys.ENC)
		var secured []byte
		if p.Format1 {
			secured, chain, err = p.secure1(ctx, t, keys, chain, c)
		} else {
			secured, err = p.Secure(ctx, t, keys, s.Input, c)
		}
		if err != nil {
			return nil, used, fmt.Errorf("command %d of the script: %w", n+1, err)
		}
		out = append(out, secured)
	}
	return out, used, nil
}

// Secure returns the command in Format 2: CLA with secure messaging, {encrypted} data
// | MAC ([EMV2], Section 9.2). The MAC covers the header with its final Lc, then ATC
// and ARQC if the profile binds them, then the data.
func (p Profile) Secure(ctx context.Context, t derive.TDEAToken, k Keys, in Input, c Command) ([]byte, error) {
	data := c.Data
	if c.Encipher {
		var err error
		if data, err = Encipher(ctx, t, k.ENC, p.Encipherment, c.Data); err != nil {
			return nil, err
		}
	}
	if len(data)+MACBytes > apdu.ShortDataMax {
		return nil, fault.New(fault.InvalidInput, "the command's data leaves no room for its MAC")
	}
	// Format 2 is "proprietary" in the class byte: [EMV2], Section 9.2.1.
	header := []byte{c.CLA&0xF0 | 0x04, c.INS, c.P1, c.P2, byte(len(data) + MACBytes)}
	mac, err := p.ScriptMAC(ctx, t, k.MAC, header, in, data)
	if err != nil {
		return nil, err
	}
	return append(append(header, data...), mac...), nil
}

// ScriptMAC computes the MAC of one command, 8 bytes, of which a card may check fewer.
func (p Profile) ScriptMAC(ctx context.Context, t derive.TDEAToken, k MACKey, header []byte, in Input, data []byte) ([]byte, error) {
	message := append([]byte{}, header...)
	if !p.Unbound {
		message = append(binary.BigEndian.AppendUint16(message, in.ATC), in.ARQC...)
	}
	return k.mac(ctx, t, Padding2, append(message, data...))
}

// Next returns the input of the script's command n, from 0: the ARQC plus n, as a
// number of 64 bits, is the seed of its session keys, while the MAC covers the ARQC
// as the card sent it.
func (in Input) Next(n int) Input {
	out := in
	out.ARQC = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(in.ARQC)+uint64(n))
	return out
}
