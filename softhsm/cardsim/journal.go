package cardsim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// State is the state of the update, field 92 of the status.
type State byte

// The states of CUP-1.
const (
	StateIdle      State = 0 // no package
	StateStaging   State = 1 // a manifest is accepted, chunks arrive
	StatePending   State = 2 // committed, starts at the next reset
	StateTrial     State = 3 // the new image runs and is not confirmed
	StateReverted  State = 4 // the last package was judged bad
	StateConfirmed State = 5 // the last package runs; its manifest is kept until the next OPEN
)

// Values of the field 94 (last error) of the status.
const (
	lastNone      = 0x00
	lastSelfTest  = 0x01 // the self-test of the new image failed
	lastTriesUsed = 0x02 // the new image was not confirmed in any of its trial boots
	lastImage     = 0x03 // the committed image did not read back at the reset
)

// imageInfo identifies an image in a bank.
type imageInfo struct {
	size   uint32
	digest [32]byte
}

func describe(image []byte) imageInfo {
	return imageInfo{size: uint32(len(image)), digest: sha256.Sum256(image)}
}

// journal is everything that an update changes besides banks and marks. It changes only as a whole (see record).
type journal struct {
	state     State
	active    int // bank of the running image
	tries     byte
	lastError byte
	counter   uint32 // security counter
	seq       uint32 // highest sequence number confirmed or judged bad
	version   [8]byte
	image     imageInfo // of the active bank
	object    []byte    // manifest as received; empty when none is held
}

func (j journal) encode() []byte {
	b := []byte{byte(j.state), byte(j.active), j.tries, j.lastError}
	b = binary.BigEndian.AppendUint32(b, j.counter)
	b = binary.BigEndian.AppendUint32(b, j.seq)
	b = append(b, j.version[:]...)
	b = binary.BigEndian.AppendUint32(b, j.image.size)
	b = append(b, j.image.digest[:]...)
	return append(b, j.object...)
}

// decodeJournal is the inverse of encode. Records with a right CRC are never malformed, but the mutants of the tests have
// none.
func decodeJournal(b []byte) (j journal, ok bool) {
	if len(b) < 56 || b[1] > 1 {
		return journal{}, false
	}
	j.state, j.active, j.tries, j.lastError = State(b[0]), int(b[1]), b[2], b[3]
	j.counter, j.seq = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	j.version = [8]byte(b[12:])
	j.image = imageInfo{binary.BigEndian.Uint32(b[20:]), [32]byte(b[24:])}
	j.object = bytes.Clone(b[56:])
	return j, true
}

// loadJournal returns the journal; ok is false when neither record is readable.
func (c *Card) loadJournal() (journal, bool) {
	b, _, _, ok := c.layout.journal.current(c.nvm, c.faults.noJournalCRC)
	if !ok {
		return journal{}, false
	}
	return decodeJournal(b)
}

// storeJournal makes j true, now and after every later reset. Dying in it leaves the journal before.
func (c *Card) storeJournal(j journal) {
	if c.faults.singleSlot {
		_, generation, slot, _ := c.layout.journal.current(c.nvm, false)
		c.layout.journal.put(c.nvm, slot, generation+1, j.encode())
	} else {
		c.layout.journal.store(c.nvm, j.encode())
	}
	c.hold(j)
}

// heldPackage is the package whose manifest the journal holds, with its keys (none in suite 00).
type heldPackage struct {
	manifest   manifest
	kENC, kMAC []byte
}

// hold derives the keys of the package in the journal again: after a reset nothing of it is in RAM.
func (c *Card) hold(j journal) {
	c.ram.held = nil
	m, err := parseManifest(j.object)
	if err != nil || m.suite == suiteAES && !c.hasKey(m.key) {
		return
	}
	c.ram.held = c.packageOf(m)
}

// needsPackage reports whether the state makes sense only with a package.
func (j journal) needsPackage() bool {
	return j.state == StateStaging || j.state == StatePending || j.state == StateTrial
}

// hasKey reports whether this is the reference of the card's update key.
func (c *Card) hasKey(ref [2]byte) bool {
	k := c.ram.keys.update
	return k.Value != nil && ref == [2]byte{k.KVN, k.ID}
}

var (
	labelENC = [12]byte([]byte("CUP1-ENC-KEY"))
	labelMAC = [12]byte([]byte("CUP1-MAC-KEY"))
)

// packageOf derives the keys of a package from K-UPD and the challenges in its manifest. In suite 01 the key reference must
// have been checked.
func (c *Card) packageOf(m manifest) *heldPackage {
	p := &heldPackage{manifest: m}
	if k := c.ram.keys.update.Value; m.suite == suiteAES {
		p.kENC = kdf(k, labelENC, len(k), m.context)
		p.kMAC = kdf(k, labelMAC, len(k), m.context)
	}
	return p
}

// mac computes the MAC of an object of this package. The tag comes first, so that no object can be taken for another.
func (p *heldPackage) mac(tag byte, content []byte) []byte {
	return cmac(p.kMAC, []byte{tag}, p.manifest.mac, content)
}
