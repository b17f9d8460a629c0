package cardsim

import (
	"bytes"
	"io"
)

// session is a Secure Channel Session, from INITIALIZE UPDATE on.
type session struct {
	level   byte
	macLen  int // 8 (S8) or 16 (S16)
	context []byte
	sENC    []byte
	sMAC    []byte
	sRMAC   []byte
	mcv     [16]byte // MAC chaining value
	counter uint64   // encryption counter
	dek     []byte   // static: SCP03 has no session DEK
	opened  bool     // the manifest of the package was presented in this session
	kvn     byte     // of the keys that it stands on
	agreed  bool     // by SCP11: it carries no update and no keys
	legacy  *legacy  // the session is one of SCP02, and has only this, macLen, level and kvn
}

// Derivation constants of [AmdD], Section 4.1.5.
const (
	constCardCryptogram = 0x00
	constHostCryptogram = 0x01
	constCardChallenge  = 0x02
	constSENC           = 0x04
	constSMAC           = 0x06
	constSRMAC          = 0x07
)

// newSession derives the session keys of [AmdD], Section 4.1.5; context is host challenge and card challenge.
func newSession(k KeySet, context []byte, macLen int) *session {
	size := len(k.ENC)
	return &session{
		macLen:  macLen,
		context: context,
		sENC:    kdf(k.ENC, scp03Label(constSENC), size, context),
		sMAC:    kdf(k.MAC, scp03Label(constSMAC), size, context),
		sRMAC:   kdf(k.MAC, scp03Label(constSRMAC), size, context),
		dek:     k.DEK,
	}
}

// cryptogram computes the host or card cryptogram ([AmdD], Section 4.1.5).
func (s *session) cryptogram(constant byte) []byte {
	if s.legacy != nil {
		return s.legacy.cryptogram(constant)
	}
	return kdf(s.sMAC, scp03Label(constant), s.macLen, s.context)
}

// initializeUpdate begins an authentication and ends a session that may be open.
func (c *Card) initializeUpdate(cmd command) ([]byte, word) {
	c.ram.session, c.ram.pending, c.ram.chain = nil, nil, chain{}
	if c.cfg.Legacy.KVN != 0 && cmd.p1 == c.cfg.Legacy.KVN {
		return c.initializeLegacy(cmd)
	}
	set := c.ram.keys.find(cmd.p1)
	switch {
	case len(cmd.data) != c.cfg.macLen():
		return nil, swLength
	case cmd.p2 != 0:
		return nil, swParameters
	case set < 0:
		return nil, swReference
	case c.loadByte(c.layout.auth) == 0:
		return nil, swBlocked
	}
	challenge, counter, ok := c.cardChallenge(set)
	if !ok {
		return nil, swConditions
	}
	keys := c.ram.keys.sets[set].KeySet
	s := newSession(keys, append(bytes.Clone(cmd.data), challenge...), c.cfg.macLen())
	s.kvn = keys.KVN
	c.ram.pending = s
	data := append(c.cfg.KDD[:len(c.cfg.KDD):len(c.cfg.KDD)], keys.KVN, 0x03, c.cfg.I)
	data = append(append(data, challenge...), s.cryptogram(constCardCryptogram)...)
	return append(data, counter...), swOK
}

// cardChallenge returns a challenge, and the sequence counter when the "i" parameter says that challenges are pseudo-random.
// The counter is stored before it is used: a power cut skips a value but never repeats one.
func (c *Card) cardChallenge(set int) (challenge, counter []byte, ok bool) {
	size := c.cfg.macLen()
	if c.cfg.I&iPseudoRandom == 0 {
		challenge = make([]byte, size)
		_, err := io.ReadFull(c.cfg.Rand, challenge)
		return challenge, nil, err == nil
	}
	n := c.loadSequence(set)
	if n == 0xFFFFFF { // [AmdD], Section 6.2.2.1: at its maximum INITIALIZE UPDATE is rejected
		return nil, nil, false
	}
	counter = c.storeSequence(set, n+1)
	context := append(bytes.Clone(counter), c.cfg.ISD...)
	return kdf(c.ram.keys.sets[set].ENC, scp03Label(constCardChallenge), size, context), counter, true
}

// externalAuthenticate completes the authentication. The try is taken before the host cryptogram is looked at and given back
// after success, so that cutting the power does not buy free tries.
func (c *Card) externalAuthenticate(cmd command) word {
	s := c.ram.pending
	c.ram.pending, c.ram.session, c.ram.chain = nil, nil, chain{}
	switch {
	case s == nil:
		return swConditions
	case len(cmd.data) != 2*s.macLen:
		return swLength
	case cmd.p2 != 0 || !levelExists(cmd.p1):
		return swParameters
	case s.legacy == nil && !c.cfg.levelAllowed(cmd.p1), s.legacy != nil && !s.legacy.levelAllowed(cmd.p1):
		return swConditions
	}
	tries := c.loadByte(c.layout.auth)
	if tries == 0 {
		return swBlocked
	}
	c.layout.auth.store(c.nvm, []byte{tries - 1})
	// Dying here costs one try.
	if !equal(cmd.data[:s.macLen], s.cryptogram(constHostCryptogram)) {
		return swAuthFailed
	}
	if !s.verifyMAC(cmd) {
		return swSecurity
	}
	if s.legacy != nil {
		c.countLegacy()
		// Dying here costs one try and one counter value, whose session nobody had.
	}
	c.layout.auth.store(c.nvm, []byte{byte(c.cfg.AuthTries)})
	s.level = cmd.p1
	c.ram.session = s
	return swOK
}

// loadByte reads a record of one byte.
func (c *Card) loadByte(r record) byte {
	b, ok := r.load(c.nvm)
	if !ok || len(b) != 1 {
		return 0
	}
	return b[0]
}
