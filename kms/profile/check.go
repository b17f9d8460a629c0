package profile

import (
	"encoding/hex"
	"slices"

	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/key"
	"cardkms/kms/update"
)

// profile returns what a document says, and adds all in which it contradicts itself.
func (d document) profile(wrong *Problems) (p Profile) {
	p.Name, p.Extended, p.Attempts = d.Name, d.Extended, attemptsDefault
	p.Options = scp03.Options{PadEmpty: d.Quirks.PadEmpty, SkipEmpty: d.Quirks.SkipEmpty, ShortOnly: !d.Extended}
	if !key.ValidName(d.Name) {
		wrong.add("name has 1 to 63 lower-case letters, digits and hyphens, a letter first")
	}
	if d.Attempts != nil {
		p.Attempts = *d.Attempts
	}
	if p.Attempts < 1 || p.Attempts > AttemptsMax {
		wrong.add("attempts is 1 to %d", AttemptsMax)
	}
	p.AID = octets(wrong, "aid", d.AID)
	if n := len(p.AID); n != 0 && (n < 5 || n > 16) {
		wrong.add("aid has 5 to 16 bytes, or is left out")
	}
	p.Level = scp03.Level(octet(wrong, "level", d.Level))
	if variants[d.Protocol] == 0 {
		p.I = octet(wrong, "i", d.I)
		if c := d.Certificates; c.Trusted != "" || c.Host != "" || c.Authority != nil {
			wrong.add("certificates are of scp11")
		}
	}
	switch d.Protocol {
	case "scp03":
		d.scp03(&p, wrong)
	case "scp02":
		d.scp02(&p, wrong)
	case "scp11a", "scp11b", "scp11c":
		d.scp11(&p, wrong)
	default:
		wrong.add("protocol is scp03, scp02, scp11a, scp11b or scp11c")
	}
	d.keys(&p, wrong)
	d.answers(&p, wrong)
	return p
}

// scp03 reads what only cards of SCP03 have.
func (d document) scp03(p *Profile, wrong *Problems) {
	const known = scp03.ISixteen | scp03.IPseudo | scp03.IRMAC | scp03.IREncryption
	if p.I&^byte(known) != 0 || p.I&scp03.IREncryption != 0 && p.I&scp03.IRMAC == 0 {
		wrong.add("i of scp03 has the bits 01, 10, 20 and 40, and 40 only with 20")
	}
	if p.Mode = scp03.S8; p.I&scp03.ISixteen != 0 {
		p.Mode = scp03.S16
	}
	if !scp03.ValidLevel(p.Level, p.I) {
		wrong.add("level is 00, 01, 03; 11, 13 where i has R-MAC (20); 33 where it has R-ENCRYPTION (40) too")
	}
	if d.Quirks.PadEmpty && d.Quirks.SkipEmpty {
		wrong.add("padEmptyCommands and skipEmptyCommands exclude each other: two ciphertexts would have one counter")
	}
	switch d.PutKey {
	case "", "with-length":
		p.PutKey = scp03.WithLength
	case "without-length":
		p.PutKey = scp03.NoLength
		if d.Keys.Algorithm == string(key.AES192) {
			wrong.add("putKey without-length cannot carry aes-192: a key that is padded needs its length")
		}
	default:
		wrong.add("putKey is with-length or without-length")
	}
	d.packages(p, wrong)
}

// packages reads how update packages travel.
func (d document) packages(p *Profile, wrong *Problems) {
	switch d.Suite {
	case "", "01":
		p.Suite = update.AESCMAC
	case "00":
		p.Suite = update.Plain
		if p.Level&scp03.CDecryption == 0 {
			wrong.add("suite 00 needs level 03, 13 or 33: only the channel hides the image")
		}
	default:
		wrong.add("suite is 00 (the channel alone) or 01 (CUP-1)")
	}
	if p.ChunkSize = d.ChunkSize; p.ChunkSize == 0 {
		p.ChunkSize = chunkDefault
	}
	if p.ChunkSize < update.ChunkBytesMin || p.ChunkSize > update.ChunkBytesMax {
		wrong.add("chunkSize is %d to %d", update.ChunkBytesMin, update.ChunkBytesMax)
	}
}

// scp02 reads what only cards of SCP02 have, which is less.
func (d document) scp02(p *Profile, wrong *Problems) {
	p.Mode, p.SCP02 = scp03.S8, p.I
	switch {
	case d.Suite != "" || d.ChunkSize != 0:
		wrong.add("suite and chunkSize are of scp03: there are no packages under scp02")
	case d.Extended:
		wrong.add("extendedLength is of scp03")
	}
	if d.PutKey != "" {
		wrong.add("putKey is of scp03: scp02 has one format")
	}
	if d.Quirks.SkipEmpty {
		wrong.add("skipEmptyCommands is of scp03: scp02 counts no commands")
	}
	switch {
	case !scp02.ValidI(p.I):
		wrong.add("i of scp02 is 05, 15, 1A, 35, 45, 55 or 75")
	case p.Implicit() && (p.Level != scp03.CMAC || len(p.AID) == 0):
		wrong.add("i 1A is implicit initiation, which has level 01 and an aid")
	case !scp02.ValidLevel(scp02.Level(p.Level), p.I):
		wrong.add("level of scp02 is 00, 01 or 03, and 11 or 13 where i has R-MAC (35, 75)")
	}
}

// keys reads what the keys of the cards are.
func (d document) keys(p *Profile, wrong *Problems) {
	k := &p.Keys
	k.Algorithm, k.Diversification = key.Algorithm(d.Keys.Algorithm), diversify.Method(d.Keys.Diversification)
	k.From, k.To = octet(wrong, "keys.kvn.from", d.Keys.KVN.From), octet(wrong, "keys.kvn.to", d.Keys.KVN.To)
	if k.From == 0 || k.From > k.To || k.To > 0x7F {
		wrong.add("keys.kvn is from 01 to 7F at most, in order")
	}
	if p.Agreed() {
		d.agreedKeys(p, wrong)
		return
	}
	switch {
	case k.Algorithm.Size() == 0 || p.Legacy() != k.Algorithm.TDEA() || p.Legacy() && k.Algorithm != key.TDEA2:
		wrong.add("keys.algorithm is aes-128, aes-192 or aes-256 under scp03, and tdea-2key under scp02")
	case p.Legacy() && k.Diversification == diversify.AN10922:
		wrong.add("tokens compute an10922 under AES only")
	case !slices.ContainsFunc(masters, func(m key.Algorithm) bool { return diversify.Fits(k.Diversification, m, k.Algorithm) == nil }):
		wrong.add("keys.diversification derives no %s keys from any master: %v", k.Algorithm, diversify.Fits(k.Diversification, k.Algorithm, k.Algorithm))
	}
}

// masters are the algorithms that a master key may have.
var masters = []key.Algorithm{key.AES128, key.AES192, key.AES256, key.TDEA2, key.TDEA3}

// octets reads hexadecimal digits; none are no bytes.
func octets(wrong *Problems, field, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		wrong.add("%s is in hexadecimal, in quotes", field)
	}
	return b
}

// octet reads one byte.
func octet(wrong *Problems, field, s string) byte {
	if b, err := hex.DecodeString(s); err == nil && len(b) == 1 {
		return b[0]
	}
	wrong.add("%s is one byte in hexadecimal, in quotes", field)
	return 0
}
