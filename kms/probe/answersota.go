package probe

import (
	"bytes"
	"encoding/binary"
	"errors"

	"cardkms/derive"
	"cardkms/derive/scp80"
	"cardkms/kms/key"
)

// securedPacket is a packet of SCP80 with its keys.
type securedPacket struct {
	SPI      octets `json:"spi"`
	KIcByte  byte   `json:"kic_b"`
	KIDByte  byte   `json:"kid_b"`
	TAR      octets `json:"tar"`
	CNTR     octets `json:"cntr"`
	KIc      octets `json:"kic"`
	KID      octets `json:"kid"`
	Sig      string `json:"sig"` // one of statedChecks; empty in a vector that does not say
	InPacket octets `json:"packet"`
}

// statedChecks are the words of vectors for what their SPI holds too.
var statedChecks = map[string]scp80.Check{"none": scp80.NoCheck, "rc32": scp80.RC, "cc": scp80.CC}

func (p securedPacket) header() (scp80.Header, error) {
	if len(p.SPI) != 2 || len(p.TAR) != 3 {
		return scp80.Header{}, errors.New("an SPI has 2 bytes and a TAR 3")
	}
	if c, known := statedChecks[p.Sig]; p.Sig != "" && (!known || c != scp80.SPI(p.SPI).Check()) {
		return scp80.Header{}, errors.New("the SPI asks for another check than the case states")
	}
	return scp80.Header{SPI: scp80.SPI(p.SPI), KIc: p.KIcByte, KID: p.KIDByte, TAR: [3]byte(p.TAR)}, nil
}

// cntrOf reads a CNTR.
func cntrOf(b []byte) (uint64, error) {
	if len(b) != 5 {
		return 0, errors.New("a CNTR has 5 bytes")
	}
	return binary.BigEndian.Uint64(append(make([]byte, 3), b...)), nil
}

// otaKey imports a key as KIc or KID names it; nil for a key that the vector leaves out.
// aes is what an AES key is for.
func (b *bench) otaKey(named byte, aes derive.Class, value []byte) (*derive.Key, error) {
	switch {
	case len(value) == 0:
		return nil, nil
	case named&0x0F == 2:
		return b.aes(aes, value)
	case len(value) == key.TDEA3.Size():
		return b.add(key.TDEA3, derive.SessionENC, value)
	}
	return b.tdeaOf(derive.SessionENC, value)
}

// otaKeys imports those keys of a packet that the check and the cipher of one direction
// ask for.
func (b *bench) otaKeys(p securedPacket, check scp80.Check, ciphered bool) (k scp80.Keys, err error) {
	if ciphered {
		if k.KIc, err = b.otaKey(p.KIcByte, derive.SessionENC, p.KIc); err != nil {
			return k, err
		}
	}
	if check == scp80.CC {
		k.KID, err = b.otaKey(p.KIDByte, derive.SessionMAC, p.KID)
	}
	return k, err
}

func runSecuredCommand(b *bench, in input) error {
	h, err := in.header()
	if err != nil {
		return err
	}
	n, err := cntrOf(in.CNTR)
	if err != nil {
		return err
	}
	k, err := b.otaKeys(in.securedPacket, h.SPI.Check(), h.SPI.Ciphered())
	if err != nil {
		return err
	}
	got, err := scp80.Command(b.ctx, b.token, k, h, n, in.Data)
	if err != nil {
		return err
	}
	if len(in.Out.Packet) == 0 {
		return errNoAnswer
	}
	return equalStated("the packet", got, in.Out.Packet)
}

// runProofOfReceipt opens a response that a card sent.
func runProofOfReceipt(b *bench, in input) error {
	h, err := in.header()
	if err != nil {
		return err
	}
	k, err := b.otaKeys(in.securedPacket, h.SPI.AnswerCheck(), h.SPI.AnswerCiphered())
	if err != nil {
		return err
	}
	a, err := scp80.ParseAnswer(in.InPacket)
	if err != nil {
		return err
	}
	r, err := a.Open(b.ctx, b.token, k, h)
	if err != nil {
		return err
	}
	n, err := cntrOf(in.Out.CNTR)
	if err != nil || len(in.Out.RSC) != 1 {
		return errNoAnswer
	}
	if !r.Proved || r.Counter != n || r.Status != scp80.Status(in.Out.RSC[0]) || !bytes.Equal(r.Data, in.Out.Data) {
		return errors.New("the response is another one than the known answer")
	}
	return nil
}

func runCRC16(_ *bench, in input) error {
	if len(in.Out.CRC) == 0 {
		return errNoAnswer
	}
	return equalStated("the CRC-16", binary.BigEndian.AppendUint16(nil, scp80.CRC16(in.Data)), in.Out.CRC)
}
