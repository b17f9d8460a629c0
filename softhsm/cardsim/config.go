package cardsim

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// KeySet is one SCP03 key set: three AES keys of 16, 24 or 32 bytes, all of one size, under a Key Version Number.
type KeySet struct {
	KVN           byte
	ENC, MAC, DEK []byte
}

// UpdateKey is K-UPD, the key from which CUP-1 derives the keys of one package: 16, 24 or 32 bytes, its Key Version Number
// and its key identifier.
type UpdateKey struct {
	KVN, ID byte
	Value   []byte
}

// Quirks are ways in which real cards differ from the majority (PROTOCOLS.md 9.1).
type Quirks struct {
	EmptyCommandPadded bool // C-DECRYPTION: a command without data carries one encrypted block of padding
	CounterSkipsEmpty  bool // the encryption counter goes up only for commands with data
	OverPadRENC        bool // R-ENCRYPTION: one block of zeros more than the padding needs
	PutKeyNoLength     bool // PUT KEY: the key block has no key length byte, except where the key is padded
}

// Config is what is fixed when the card is made; keys, version, counter and image are factory values that commands replace. Zero values of the last group mean the defaults given there.
type Config struct {
	KDD     [10]byte // key diversification data, also the card id of CUP-1
	ISD     []byte   // AID of the Issuer Security Domain, 5 to 16 bytes
	KeySets []KeySet // the first one is the default for INITIALIZE UPDATE with P1 = 00
	I       byte     // SCP03 "i" parameter: bits 01 S16, 10 pseudo-random challenge, 20 R-MAC, 60 R-MAC and R-ENCRYPTION
	Quirks  Quirks
	Legacy  LegacyKeys // SCP02 keys beside the others; none if its KVN is 00
	Agreed  AgreedKeys // of SCP11, beside the others

	UpdateKey       UpdateKey
	ClassID         [16]byte // card product
	Component       []byte   // what an update replaces, 5 to 16 bytes
	Version         [8]byte  // version of the factory image
	SecurityCounter uint32   // anti-rollback counter of the factory image
	Image           []byte   // factory image in bank A

	Extended      bool      // extended length fields are understood
	BankBytes     int       // size of each of the two image banks; 16384
	ChunkLevelMin byte      // security level for chunks of suite 01: 01 or higher; by default the strongest the card has
	AuthTries     int       // failed authentications until the card blocks; 10
	PIN           []byte    // "1234"
	Rand          io.Reader // for challenges; crypto/rand
}

// withDefaults fills the fields that have defaults.
func (c Config) withDefaults() Config {
	if c.BankBytes == 0 {
		c.BankBytes = 16384
	}
	if c.AuthTries == 0 {
		c.AuthTries = 10
	}
	if c.PIN == nil {
		c.PIN = []byte("1234")
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Image == nil {
		c.Image = []byte("factory image")
	}
	if c.ChunkLevelMin == 0 {
		c.ChunkLevelMin = c.updateLevel()
	}
	return c
}

func (c Config) validate() error {
	if len(c.KeySets) == 0 || len(c.KeySets) > keySetsMax {
		return fmt.Errorf("cardsim: a card has 1 to %d key sets", keySetsMax)
	}
	for _, k := range c.KeySets {
		if !keySize(k.ENC) || len(k.MAC) != len(k.ENC) || len(k.DEK) != len(k.ENC) {
			return fmt.Errorf("cardsim: key set %02X needs three AES keys of one size", k.KVN)
		}
	}
	switch {
	case len(c.ISD) < 5 || len(c.ISD) > 16:
		return errors.New("cardsim: ISD AID must have 5 to 16 bytes")
	case c.I&^0x71 != 0 || c.I&0x60 == 0x40:
		return fmt.Errorf(`cardsim: "i" parameter %02X does not exist`, c.I)
	case c.UpdateKey.Value != nil && !keySize(c.UpdateKey.Value):
		return errors.New("cardsim: update key is not an AES key")
	case c.UpdateKey.Value != nil && (len(c.Component) < 5 || len(c.Component) > 16):
		return errors.New("cardsim: component must have 5 to 16 bytes")
	case c.Legacy.KVN != 0 && !c.Legacy.valid(c.KeySets):
		return errors.New("cardsim: SCP02 needs three keys of 16 bytes under a KVN of their own")
	case c.Agreed.valid() != nil:
		return c.Agreed.valid()
	case len(c.Image) > c.BankBytes:
		return errors.New("cardsim: factory image exceeds the bank")
	case c.AuthTries < 1 || c.AuthTries > 0xFF:
		return errors.New("cardsim: AuthTries must be 1 to 255")
	case !levelExists(c.ChunkLevelMin) || c.ChunkLevelMin == 0:
		return fmt.Errorf("cardsim: chunk level %02X does not exist", c.ChunkLevelMin)
	}
	return nil
}

func keySize(k []byte) bool { return len(k) == 16 || len(k) == 24 || len(k) == 32 }

// Bits of the "i" parameter ([AmdD]; PROTOCOLS.md 3.1).
const (
	iS16          = 0x01
	iPseudoRandom = 0x10
	iRMAC         = 0x20
	iRENC         = 0x40
)

// macLen is the length in bytes of challenges, cryptograms and MACs: 8 (S8) or 16 (S16).
func (c Config) macLen() int {
	if c.I&iS16 != 0 {
		return 16
	}
	return 8
}

// Bits of the security level.
const (
	levelCMAC = 0x01
	levelCDEC = 0x02
	levelRMAC = 0x10
	levelRENC = 0x20
)

// levelExists reports whether EXTERNAL AUTHENTICATE knows the level at all.
func levelExists(level byte) bool {
	switch level {
	case 0x00, 0x01, 0x03, 0x11, 0x13, 0x33:
		return true
	}
	return false
}

// levelAllowed reports whether the "i" parameter of this card offers the level.
func (c Config) levelAllowed(level byte) bool {
	return (level&levelRMAC == 0 || c.I&iRMAC != 0) && (level&levelRENC == 0 || c.I&iRENC != 0)
}

// updateLevel is the level that the update demands: 33, or the strongest that the "i" parameter offers.
func (c Config) updateLevel() byte {
	switch {
	case c.I&iRENC != 0:
		return 0x33
	case c.I&iRMAC != 0:
		return 0x13
	}
	return 0x03
}

// managementLevel is the level for OPEN, COMMIT, ABORT, STATUS and RECEIPT. They protect themselves against reading only
// where the card can encrypt in both directions; a card without R-ENCRYPTION is content with C-MAC and R-MAC.
func (c Config) managementLevel() byte {
	if l := c.updateLevel(); l != 0x13 {
		return l
	}
	return 0x11
}
