package cardsim

import (
	"bytes"
	"crypto/cipher"
	"crypto/des"
	"crypto/subtle"
	"io"
	"slices"
)

// LegacyKeys is one SCP02 key set: three 2-key 3DES keys of 16 bytes under a Key Version Number that no other set has, and
// the "i" parameter of the card ([GPCS], Table E-1). A card with one base key has it three times.
type LegacyKeys struct {
	KVN, I        byte
	ENC, MAC, DEK []byte
}

// Bits of the "i" parameter of SCP02.
const (
	legacyUnmodified    = 0x02
	legacyExplicit      = 0x04
	legacyICVEncryption = 0x10
	legacyRMAC          = 0x20
	legacyPseudoRandom  = 0x40
)

func (k LegacyKeys) valid(others []KeySet) bool {
	return len(k.ENC) == 16 && len(k.MAC) == 16 && len(k.DEK) == 16 &&
		!slices.ContainsFunc(others, func(s KeySet) bool { return s.KVN == k.KVN })
}

// implicit reports whether the first command with a C-MAC opens a session.
func (k LegacyKeys) implicit() bool { return k.KVN != 0 && k.I&legacyExplicit == 0 }

// legacy is what a session of SCP02 has.
type legacy struct {
	i              byte
	enc, mac, rmac []byte
	context        []byte // sequence counter | card challenge
	host           []byte
	icv            [8]byte // C-MAC before, or MAC over the AID
	chained        bool    // icv is a C-MAC
	last           command // plain, for the R-MAC of its response
	ricv           [8]byte // R-MAC before
}

// newLegacy derives the session keys of [GPCS], Section E.4.1: 3DES-CBC over constant | counter | 00*12.
func newLegacy(k LegacyKeys, counter []byte) *legacy {
	key := func(base []byte, constant byte) []byte {
		b := append([]byte{0x01, constant}, counter...)
		return cbc3(base, append(b, make([]byte, 12)...))
	}
	return &legacy{i: k.I, enc: key(k.ENC, 0x82), mac: key(k.MAC, 0x01), rmac: key(k.MAC, 0x02)}
}

// triple is 3DES with a key of two parts.
func triple(k []byte) cipher.Block {
	b, err := des.NewTripleDESCipher(append(bytes.Clone(k), k[:8]...))
	if err != nil {
		panic("cardsim: " + err.Error())
	}
	return b
}

// single is DES with the first part of a key.
func single(k []byte) cipher.Block {
	b, err := des.NewCipher(k[:8])
	if err != nil {
		panic("cardsim: " + err.Error())
	}
	return b
}

func cbc3(k, data []byte) []byte {
	out := make([]byte, len(data))
	cipher.NewCBCEncrypter(triple(k), make([]byte, 8)).CryptBlocks(out, data)
	return out
}

// pad8 appends 80 and zero bytes up to the next boundary of 8 bytes.
func pad8(b []byte) []byte {
	b = append(bytes.Clone(b), 0x80)
	return append(b, make([]byte, (8-len(b)%8)%8)...)
}

// retailMAC is DES-CBC with the first part of the key, and 3DES for the last block ([GPCS], Section B.1.2.2).
func retailMAC(k []byte, icv [8]byte, message []byte) (mac [8]byte) {
	padded, x := pad8(message), icv
	for ; len(padded) > 8; padded = padded[8:] {
		subtle.XORBytes(x[:], x[:], padded[:8])
		single(k).Encrypt(x[:], x[:])
	}
	subtle.XORBytes(x[:], x[:], padded)
	triple(k).Encrypt(mac[:], x[:])
	return mac
}

// cryptogram is the last block of 3DES-CBC over what the two ends exchanged ([GPCS], Section E.4.2).
func (l *legacy) cryptogram(constant byte) []byte {
	input := append(bytes.Clone(l.host), l.context...)
	if constant == constHostCryptogram {
		input = append(bytes.Clone(l.context), l.host...)
	}
	out := cbc3(l.enc, pad8(input))
	return out[len(out)-8:]
}

// legacyCounter returns the two bytes of the sequence counter.
func (c *Card) legacyCounter() []byte {
	b, ok := c.layout.legacy.load(c.nvm)
	if !ok || len(b) != 2 {
		return []byte{0, 0}
	}
	return b
}

// countLegacy raises the sequence counter, which is not at its end.
func (c *Card) countLegacy() {
	b := c.legacyCounter()
	n := (uint16(b[0])<<8 | uint16(b[1])) + 1
	c.layout.legacy.store(c.nvm, []byte{byte(n >> 8), byte(n)})
}

// initializeLegacy answers INITIALIZE UPDATE for the SCP02 keys ([GPCS], Section E.5.1). The sequence counter stays until
// the host proved itself, so a session that was cut off has the keys of the next one.
func (c *Card) initializeLegacy(cmd command) ([]byte, word) {
	counter := c.legacyCounter()
	switch {
	case len(cmd.data) != 8:
		return nil, swLength
	case cmd.p2 != 0:
		return nil, swParameters
	case c.loadByte(c.layout.auth) == 0:
		return nil, swBlocked
	case c.cfg.Legacy.implicit(), counter[0] == 0xFF && counter[1] == 0xFF:
		return nil, swConditions
	}
	l := newLegacy(c.cfg.Legacy, counter)
	challenge := make([]byte, 6)
	if l.i&legacyPseudoRandom != 0 {
		mac := retailMAC(l.mac, [8]byte{}, c.cfg.ISD)
		copy(challenge, mac[:])
	} else if _, err := io.ReadFull(c.cfg.Rand, challenge); err != nil {
		return nil, swConditions
	}
	l.host, l.context = bytes.Clone(cmd.data), append(bytes.Clone(counter), challenge...)
	c.ram.pending = &session{macLen: 8, kvn: c.cfg.Legacy.KVN, legacy: l}
	data := append(c.cfg.KDD[:len(c.cfg.KDD):len(c.cfg.KDD)], c.cfg.Legacy.KVN, 0x02)
	return append(append(data, l.context...), l.cryptogram(constCardCryptogram)...), swOK
}

// initiateImplicitly opens a session at level 01 by a first command whose C-MAC chains from a MAC over the AID of the
// selected application ([GPCS], Section E.3.3). The counter is raised before the command runs.
func (c *Card) initiateImplicitly(cmd command) *session {
	counter := c.legacyCounter()
	if c.ram.selected != appISD || counter[0] == 0xFF && counter[1] == 0xFF {
		return nil
	}
	l := newLegacy(c.cfg.Legacy, counter)
	l.icv = retailMAC(l.mac, [8]byte{}, c.cfg.ISD)
	trial := *l
	if _, ok := trial.unwrap(cmd, levelCMAC, c.cfg.Quirks); !ok {
		return nil
	}
	c.countLegacy()
	c.ram.session = &session{macLen: 8, level: levelCMAC, kvn: c.cfg.Legacy.KVN, legacy: l}
	return c.ram.session
}

// levelAllowed reports whether the "i" parameter of SCP02 offers a level that exists; R-ENCRYPTION is none of SCP02.
func (l *legacy) levelAllowed(level byte) bool {
	return level&levelRENC == 0 && (level&levelRMAC == 0 || l.i&legacyRMAC != 0)
}

// authenticates checks the C-MAC of EXTERNAL AUTHENTICATE, which is also the ICV of the first R-MAC.
func (l *legacy) authenticates(cmd command) bool {
	_, ok := l.unwrap(cmd, levelCMAC, Quirks{})
	l.ricv = l.icv
	return ok
}

// unwrap decrypts a command and then checks its C-MAC, which is over the plain data ([GPCS], Sections E.4.4 and E.4.6):
// wrong padding and a wrong MAC have one answer, but not one duration, and that is the weakness of SCP02.
func (l *legacy) unwrap(cmd command, level byte, q Quirks) (command, bool) {
	n := len(cmd.data) - 8
	if level&levelCMAC == 0 || n < 0 || cmd.extended {
		return command{}, false
	}
	mac := cmd.data[n:]
	cmd.data = cmd.data[:n]
	if level&levelCDEC != 0 && (n > 0 || q.EmptyCommandPadded) {
		if n == 0 || n%8 != 0 {
			return command{}, false
		}
		padded := make([]byte, n)
		cipher.NewCBCDecrypter(triple(l.enc), make([]byte, 8)).CryptBlocks(padded, cmd.data)
		end := bytes.LastIndexByte(padded, 0x80)
		if end < n-8 || len(bytes.Trim(padded[end+1:], "\x00")) > 0 {
			return command{}, false
		}
		cmd.data = padded[:end]
	}
	if l.chained && l.i&legacyICVEncryption != 0 {
		single(l.mac).Encrypt(l.icv[:], l.icv[:])
	}
	l.icv = retailMAC(l.mac, l.icv, l.covered(cmd))
	l.chained = true
	cmd.cla &^= claSecured
	l.last = cmd
	return cmd, equal(l.icv[:], mac)
}

// covered is what the C-MAC of a command is over, given its plain data ([GPCS], Section E.4.4).
func (l *legacy) covered(cmd command) []byte {
	if l.i&legacyUnmodified == 0 {
		return append([]byte{cmd.cla, cmd.ins, cmd.p1, cmd.p2, byte(len(cmd.data) + 8)}, cmd.data...)
	}
	header := []byte{cmd.cla &^ claSecured, cmd.ins, cmd.p1, cmd.p2}
	if len(cmd.data) > 0 {
		header = append(header, byte(len(cmd.data)))
	}
	return append(header, cmd.data...)
}

// wrap appends the R-MAC, which covers the command too ([GPCS], Section E.4.5). Errors of a command have one as well.
func (l *legacy) wrap(data []byte, sw word, level byte) []byte {
	if level&levelRMAC == 0 {
		return response(data, sw)
	}
	input := append([]byte{l.last.cla, l.last.ins, l.last.p1, l.last.p2, byte(len(l.last.data))}, l.last.data...)
	input = append(append(input, byte(len(data))), data...)
	l.ricv = retailMAC(l.rmac, l.ricv, append(input, byte(sw>>8), byte(sw)))
	return response(append(bytes.Clone(data), l.ricv[:]...), sw)
}
