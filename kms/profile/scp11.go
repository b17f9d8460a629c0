package profile

import (
	"crypto/ecdh"
	"crypto/x509"
	"time"

	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Certificates are what a profile of SCP11 has in the place of masters.
type Certificates struct {
	Trusted []*x509.Certificate // for those of cards
	// Host are the host's: of issuers first, its own last. None under scp11b.
	Host []*x509.Certificate
	// Authority is the key of the cards that verifies the first of Host.
	Authority scp11.Reference
}

// HostKey returns the public key of the host's own certificate.
func (c Certificates) HostKey() *ecdh.PublicKey {
	public, err := scp11.Agrees(c.Host[len(c.Host)-1])
	if err != nil {
		panic("profile: " + err.Error()) // Parse looked
	}
	return public
}

// HostValid returns a fault.ProfileMismatch if a certificate of the host is not within its
// dates. Cards have no clock, so nobody else looks.
func (c Certificates) HostValid(now time.Time) error {
	for _, one := range c.Host {
		if now.Before(one.NotBefore) || now.After(one.NotAfter) {
			return fault.New(fault.ProfileMismatch, "a certificate of the host in the card profile is not within its dates; officers register a newer version of the profile")
		}
	}
	return nil
}

// variants are the protocols of SCP11 by name.
var variants = map[string]scp11.Variant{"scp11a": scp11.A, "scp11b": scp11.B, "scp11c": scp11.C}

// Agreed reports whether the cards speak SCP11, which has no masters, and carries neither
// packages nor new keys.
func (p Profile) Agreed() bool { return p.SCP11 != 0 }

// scp11 reads what only cards of SCP11 have.
func (d document) scp11(p *Profile, wrong *Problems) {
	p.Mode, p.SCP11 = 8, variants[d.Protocol]
	if p.Level != scp11.Level {
		wrong.add("level of scp11 is 33")
	}
	if d.I != "" || d.AID != "" {
		wrong.add("i and aid are of scp03 and scp02: a card of scp11 answers neither with a parameter nor with a challenge")
	}
	if d.Suite != "" || d.ChunkSize != 0 || d.PutKey != "" {
		wrong.add("suite, chunkSize and putKey are of scp03: there are no packages and no new keys under scp11")
	}
	if d.Quirks.PadEmpty && d.Quirks.SkipEmpty {
		wrong.add("padEmptyCommands and skipEmptyCommands exclude each other: two ciphertexts would have one counter")
	}
	c := &p.Certificates
	if c.Trusted = certificates(wrong, "certificates.trusted", d.Certificates.Trusted); len(c.Trusted) == 0 {
		wrong.add("certificates.trusted has the certificates, in PEM, of authorities that those of the cards lead to")
	}
	for _, one := range c.Trusted {
		if !one.IsCA {
			wrong.add("certificates.trusted: one is not of an authority")
		}
	}
	d.host(p, wrong)
}

// host reads the certificates of the host.
func (d document) host(p *Profile, wrong *Problems) {
	c, a := &p.Certificates, d.Certificates.Authority
	if !p.SCP11.HostProven() {
		if d.Certificates.Host != "" || a != nil {
			wrong.add("certificates.host and authority are of scp11a and scp11c: scp11b does not prove the host")
		}
		return
	}
	if a == nil {
		wrong.add("certificates.authority names the key of the cards that verifies the host, by kvn and kid")
	} else {
		c.Authority = scp11.Reference{KVN: octet(wrong, "certificates.authority.kvn", a.KVN), KID: octet(wrong, "certificates.authority.kid", a.KID)}
		if c.Authority.KVN == 0 || c.Authority.KVN > 0x7F || c.Authority.KID == 0 || c.Authority.KID > 0x7F {
			wrong.add("certificates.authority has a kvn and a kid of 01 to 7F")
		}
	}
	if c.Host = certificates(wrong, "certificates.host", d.Certificates.Host); len(c.Host) == 0 {
		wrong.add("certificates.host has the host's certificates in PEM, those of issuers first and its own last")
		return
	}
	for i, one := range c.Host[1:] {
		if one.CheckSignatureFrom(c.Host[i]) != nil {
			wrong.add("certificates.host: each but the first is signed by the one before")
		}
	}
	if _, err := scp11.Agrees(c.Host[len(c.Host)-1]); err != nil {
		wrong.add("certificates.host: the last is not of a key on P-256 that agrees on secrets")
	}
}

// certificates reads PEM in which nothing else stands.
func certificates(wrong *Problems, field, text string) (out []*x509.Certificate) {
	blocks, err := DecodePEM([]byte(text))
	if err != nil {
		wrong.add("%s is certificates in PEM and nothing else", field)
		return nil
	}
	for _, der := range blocks {
		c, err := scp11.ParseCertificate(der)
		if err != nil || len(out) == scp11.CertificatesMax {
			wrong.add("%s are X.509 certificates, at most %d", field, scp11.CertificatesMax)
			return nil
		}
		out = append(out, c)
	}
	return out
}

// agreedKeys reads what the keys of the cards are under SCP11.
func (d document) agreedKeys(p *Profile, wrong *Problems) {
	if p.Keys.Algorithm != key.ECP256 || d.Keys.Diversification != "" {
		wrong.add("keys.algorithm is ec-p256 under scp11, and there is no diversification: each card has a pair of its own")
	}
}

// Agreement is the beginning of a session of SCP11, with the host's private keys, which
// anybody may know.
type Agreement struct {
	Ephemeral, Static []byte // Static is nil under scp11b
	Card              *ecdh.PublicKey
	Authenticate      apdu.Command
	Answer            []byte // without its status word
	Commands          []Exchange
}

func (d answerDocument) agreement(p Profile, wrong *Problems) *Agreement {
	g := d.Agreement
	if g == nil || d.TestMaster != nil || d.TestKeys != nil || d.KDD != "" || d.CheckValues != nil || d.Session != nil || d.PutKey != nil {
		wrong.add("a known answer of scp11 has an agreement, and nothing else has one")
		return nil
	}
	out := &Agreement{
		Ephemeral: octets(wrong, "agreement.testEphemeral", g.Ephemeral), Answer: octets(wrong, "agreement.answer", g.Answer),
		Authenticate: command(wrong, "agreement.authenticate", g.Authenticate),
	}
	if p.SCP11.HostProven() {
		out.Static = octets(wrong, "agreement.testStatic", g.Static)
	} else if g.Static != "" {
		wrong.add("agreement.testStatic is of scp11a and scp11c")
	}
	for _, scalar := range [][]byte{out.Ephemeral, out.Static} {
		if _, err := ecdh.P256().NewPrivateKey(scalar); err != nil && (scalar != nil || p.SCP11.HostProven()) {
			wrong.add("agreement.testEphemeral, and testStatic under scp11a and scp11c, are private keys on P-256")
			break
		}
	}
	var err error
	if out.Card, err = scp11.Point(octets(wrong, "agreement.card", g.Card)); err != nil {
		wrong.add("agreement.card is the card's public key, a point of P-256 in 65 bytes")
	}
	if len(g.Commands) > commandsMax {
		wrong.add("agreement.commands are at most %d", commandsMax)
		return out
	}
	for _, c := range g.Commands {
		out.Commands = append(out.Commands, Exchange{command(wrong, "plain", c.Plain), command(wrong, "secured", c.Secured)})
	}
	return out
}
