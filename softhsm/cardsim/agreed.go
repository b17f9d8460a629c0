package cardsim

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
)

// AgreedKeys are what a card of SCP11 has: its key pair on P-256, one for all three variants, and the public key of the
// authority that certifies hosts, without which there is no SCP11a and c.
type AgreedKeys struct {
	KVN              byte // of the card's pair; none if 00
	Private          *ecdh.PrivateKey
	HostCA           *ecdsa.PublicKey
	HostKVN, HostKID byte // that name HostCA
}

func (k AgreedKeys) valid() error {
	if k.KVN != 0 && (k.Private == nil || k.Private.Curve() != ecdh.P256()) {
		return errors.New("cardsim: SCP11 needs a private key on P-256")
	}
	return nil
}

// vouching is what the host's certificates led to so far.
type vouching struct {
	part   []byte            // of a certificate, by command chaining
	issuer *x509.Certificate // that was verified last, and may vouch for the next
	host   *ecdh.PublicKey
}

// Identifiers of the card's pair, by variant, and the parameter in the data of the command.
const (
	kidMutual   = 0x11 // SCP11a
	kidInternal = 0x13 // b
	kidStatic   = 0x15 // c
)

var agreedParameter = map[byte]byte{kidMutual: 0x01, kidInternal: 0x00, kidStatic: 0x03}

// performSecurityOperation takes one certificate of the host, or a part of one (CLA 90): the first is verified with the key
// of the authority, each further one with the one before.
func (c *Card) performSecurityOperation(cmd command) word {
	v := &c.ram.vouching
	switch {
	case c.cfg.Agreed.HostCA == nil, cmd.p1 != c.cfg.Agreed.HostKVN, cmd.p2&0x7F != c.cfg.Agreed.HostKID:
		return swReference
	case len(cmd.data) == 0 || len(v.part)+len(cmd.data) > 4096:
		return swLength
	}
	v.part = append(bytes.Clone(v.part), cmd.data...)
	if cmd.cla&0x10 != 0 {
		return swOK
	}
	cert, err := x509.ParseCertificate(v.part)
	if v.part, v.host = nil, nil; err != nil || !c.vouches(cert) {
		*v = vouching{}
		return swSecurity
	}
	if v.issuer = cert; cmd.p2&0x80 != 0 {
		return swOK
	}
	v.issuer = nil
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return swSecurity
	}
	if v.host, err = public.ECDH(); err != nil {
		return swSecurity
	}
	return swOK
}

// vouches reports whether the signature of a certificate is the authority's, or that of the certificate before.
func (c *Card) vouches(cert *x509.Certificate) bool {
	by := c.cfg.Agreed.HostCA
	if i := c.ram.vouching.issuer; i != nil {
		k, ok := i.PublicKey.(*ecdsa.PublicKey)
		if !ok || !i.IsCA {
			return false
		}
		by = k
	}
	sum := sha256.Sum256(cert.RawTBSCertificate)
	return cert.SignatureAlgorithm == x509.ECDSAWithSHA256 && ecdsa.VerifyASN1(by, sum[:], cert.Signature)
}

// agree answers MUTUAL AUTHENTICATE and INTERNAL AUTHENTICATE, which open a session at level 33 and end one that may be open.
func (c *Card) agree(cmd command) ([]byte, word) {
	host := c.ram.vouching.host
	c.ram.session, c.ram.pending, c.ram.chain, c.ram.vouching = nil, nil, chain{}, vouching{}
	parameter, known := agreedParameter[cmd.p2]
	switch {
	case c.cfg.Agreed.KVN == 0 || cmd.p1 != c.cfg.Agreed.KVN || !known || (cmd.p2 == kidInternal) != (cmd.ins == insInternalAuthenticate):
		return nil, swReference
	case cmd.p2 != kidInternal && host == nil:
		return nil, swConditions
	}
	theirs, err := hostPoint(cmd.data, parameter)
	if err != nil {
		return nil, swData
	}
	if host == nil {
		host = theirs
	}
	ephemeral := c.cfg.Agreed.Private // which is what makes the scripts of SCP11c possible
	if cmd.p2 != kidStatic {
		if ephemeral, err = ecdh.P256().GenerateKey(c.cfg.Rand); err != nil {
			return nil, swConditions
		}
	}
	z, err := twoSecrets(ephemeral, theirs, c.cfg.Agreed.Private, host)
	if err != nil {
		return nil, swData
	}
	keys := x963(z, []byte{0x3C, 0x88, 0x10})
	answer := append([]byte{0x5F, 0x49, 0x41}, ephemeral.PublicKey().Bytes()...)
	receipt := cmac(keys[0], cmd.data, answer)
	c.ram.session = &session{
		level: 0x33, macLen: 8, sENC: keys[1], sMAC: keys[2], sRMAC: keys[3], mcv: [16]byte(receipt), kvn: cmd.p1, agreed: true,
	}
	return appendTLV(answer, 0x86, receipt), swOK
}

// hostPoint reads A6 0D {90 02 11 parameter | 95 01 3C | 80 01 88 | 81 01 10} | 5F49 41 ePK.OCE.
func hostPoint(data []byte, parameter byte) (*ecdh.PublicKey, error) {
	before := []byte{0xA6, 0x0D, 0x90, 0x02, 0x11, parameter, 0x95, 0x01, 0x3C, 0x80, 0x01, 0x88, 0x81, 0x01, 0x10, 0x5F, 0x49, 0x41}
	point, ok := bytes.CutPrefix(data, before)
	if !ok {
		return nil, errTLV
	}
	return ecdh.P256().NewPublicKey(point) // which is on the curve, or refused
}

func twoSecrets(ephemeral *ecdh.PrivateKey, theirs *ecdh.PublicKey, static *ecdh.PrivateKey, host *ecdh.PublicKey) ([]byte, error) {
	first, err := ephemeral.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	second, err := static.ECDH(host)
	return append(first, second...), err
}

// x963 is the key derivation function of ANSI X9.63 with SHA-256, cut into keys of 16 bytes: of the receipt, S-ENC, S-MAC,
// S-RMAC, and DEK, which this card has no use for.
func x963(z, info []byte) (keys [5][]byte) {
	var stream []byte
	for n := uint32(1); n <= 3; n++ {
		h := sha256.New()
		h.Write(z)
		h.Write(binary.BigEndian.AppendUint32(nil, n))
		h.Write(info)
		stream = h.Sum(stream)
	}
	for i := range keys {
		keys[i] = stream[16*i : 16*i+16]
	}
	return keys
}
