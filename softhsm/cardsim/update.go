package cardsim

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// chain collects the data fields of one STORE DATA chain.
type chain struct {
	object []byte
	next   int // block number expected in P2
}

// STORE DATA, P1: BER-TLV, with and without more blocks to come.
const (
	storeMore = 0x11
	storeLast = 0x91
)

// chunkBytesMax and objectBytesMax bound the RAM for one object; 64 bytes hold the tags, padding, CRC and MAC of a chunk.
const (
	chunkBytesMax  = 16384
	objectBytesMax = chunkBytesMax + 64
)

// storeData takes one block of an object and acts on the last one. Only a secure channel brings objects (CUP-1, rule C1).
func (c *Card) storeData(cmd command, s *session) word {
	started := c.ram.chain
	c.ram.chain = chain{}
	switch {
	case s == nil:
		return swSecurity
	case cmd.p1 != storeMore && cmd.p1 != storeLast, int(cmd.p2) != started.next:
		return swParameters
	case len(cmd.data) == 0:
		return swLength
	case len(started.object)+len(cmd.data) > objectBytesMax, started.next == 0xFF && cmd.p1 == storeMore:
		return swFull
	}
	object := append(started.object, cmd.data...)
	if cmd.p1 == storeMore {
		c.ram.chain = chain{object, started.next + 1}
		return swOK
	}
	return c.accept(object, s)
}

// accept acts on a complete object.
func (c *Card) accept(object []byte, s *session) word {
	j, ok := c.loadJournal()
	if !ok {
		return swMemory
	}
	if object[0] == tagChunk {
		return c.acceptChunk(object, j, s)
	}
	if !s.reaches(c.cfg.managementLevel()) {
		return swSecurity
	}
	switch object[0] {
	case tagManifest:
		return c.open(object, j, s)
	case tagCommit:
		return c.commit(object, j, s)
	case tagAbort:
		return c.abort(object, j)
	}
	return swData
}

// reaches reports whether the session has all protections of this level.
func (s *session) reaches(level byte) bool { return s != nil && s.level&level == level }

// open accepts a manifest. An identical one that is staged already only takes up the work again.
func (c *Card) open(object []byte, j journal, s *session) word {
	if j.state == StateStaging && bytes.Equal(object, j.object) {
		s.opened = true
		return swOK
	}
	if j.state == StatePending || j.state == StateTrial {
		return swConditions
	}
	m, err := parseManifest(object)
	if err != nil {
		return swData
	}
	if sw := c.authentic(m); sw != swOK {
		return sw
	}
	if sw := c.acceptable(m, j, s); sw != swOK {
		return sw
	}
	c.stage(m, j)
	s.opened = true
	return swOK
}

// authentic checks the key reference and the MAC of a manifest. In suite 00 the secure channel has done that.
func (c *Card) authentic(m manifest) word {
	if m.suite == suiteChannel {
		if m.key != [2]byte{} {
			return swData
		}
		return swOK
	}
	if !c.hasKey(m.key) {
		return swData
	}
	if !equal(cmac(c.packageOf(m).kMAC, m.encodeSigned()), m.mac) {
		return swMAC
	}
	return swOK
}

// acceptable checks that a package is meant for this card, in this state, in this session (CUP-1, rules C2 and C6).
func (c *Card) acceptable(m manifest, j journal, s *session) word {
	switch {
	case !bytes.Equal(m.class, c.cfg.ClassID[:]), !bytes.Equal(m.card, c.cfg.KDD[:]), !bytes.Equal(m.component, c.cfg.Component):
		return swData
	case !m.consistent():
		return swData
	case c.nvm.pageBytes > 0 && m.chunks > 1 && m.chunkSize%c.nvm.pageBytes != 0:
		return swData // two chunks would share a page, and rewriting one could lose the other
	case int64(m.size) > int64(c.cfg.BankBytes), m.chunks > chunksMax, m.chunkSize > chunkBytesMax:
		return swFull
	case !equal(m.context, s.context) && !c.faults.noContextCheck:
		return swConditions
	case m.seq <= j.seq && !c.faults.noSequenceCheck:
		return swConditions
	case m.counter < j.counter && !c.faults.noCounterCheck:
		return swConditions
	case m.precursor != j.version:
		return swConditions
	}
	return swOK
}

// stage begins a package. The marks are blank before the journal says STAGING, and no older package is staged while they are
// blanked; otherwise a power cut could leave marks of one package that are believed for another (CUP-1, rule C7).
func (c *Card) stage(m manifest, j journal) {
	if j.state == StateStaging {
		c.forget(&j)
	}
	staging := j
	staging.state, staging.tries, staging.lastError, staging.object = StateStaging, 0, lastNone, m.object
	if c.faults.stateBeforeClear {
		c.storeJournal(staging)
	}
	if !c.faults.noMarkClear {
		c.nvm.blank(c.layout.marks, m.chunks)
	}
	// Dying here: idle as before OPEN, with blank marks that mean nothing.
	if !c.faults.stateBeforeClear {
		c.storeJournal(staging)
	}
}

// forget drops the staged package.
func (c *Card) forget(j *journal) {
	j.state, j.object = StateIdle, nil
	c.storeJournal(*j)
}

// acceptChunk checks, writes, reads back and marks one chunk. A chunk may come in any order and again.
func (c *Card) acceptChunk(object []byte, j journal, s *session) word {
	if j.state != StateStaging {
		return swConditions
	}
	held := c.ram.held
	level := c.cfg.ChunkLevelMin
	if held.manifest.suite == suiteChannel {
		level = c.cfg.updateLevel()
	}
	if !s.reaches(level) {
		return swSecurity
	}
	if held.manifest.suite == suiteChannel && !s.opened {
		return swConditions
	}
	ch, err := parseChunk(object, held.manifest.suite)
	if err != nil {
		return swData
	}
	data, sum, sw := held.openChunk(ch)
	if sw != swOK {
		return sw
	}
	return c.writeChunk(ch.index, data, sum, j.active)
}

// openChunk returns the data of a chunk and its CRC-32. The MAC is checked before anything is decrypted, and padding that
// is wrong under a right MAC is told as a wrong MAC (CUP-1, rule C3).
func (p *heldPackage) openChunk(ch chunk) (data []byte, sum uint32, sw word) {
	content := ch.content
	if p.manifest.suite == suiteAES {
		if !equal(p.mac(tagChunk, ch.covered)[:chunkMACBytes], ch.mac) {
			return nil, 0, swMAC
		}
		padded, ok := cbcDecrypt(p.kENC, counterBlock(uint64(ch.index)), content)
		if ok {
			content, ok = unpad(padded)
		}
		if !ok || len(content) < 4 {
			return nil, 0, swMAC
		}
	}
	if ch.index < 1 || ch.index > p.manifest.chunks {
		return nil, 0, swData
	}
	data, crc := content[:len(content)-4], content[len(content)-4:]
	if len(data) != p.manifest.chunkBytes(ch.index) {
		return nil, 0, swData
	}
	return data, binary.BigEndian.Uint32(crc), swOK
}

const marked = 0x00 // programming can clear any bits of a torn mark, so this value can always be reached

// writeChunk programs a chunk. The order is data, read-back, mark: dying before the mark means that the chunk is sent again.
// The CRC is computed over what the memory reads back, so it finds transfer errors and memory faults alike (CUP-1, rule C4).
func (c *Card) writeChunk(index int, data []byte, sum uint32, active int) word {
	mark := c.layout.marks + index - 1
	bank := c.layout.banks[1-active]
	if c.faults.writeActiveBank {
		bank = c.layout.banks[active]
	}
	at := bank + (index-1)*c.ram.held.manifest.chunkSize
	if c.faults.markBeforeData {
		c.nvm.program(mark, []byte{marked})
	}
	if c.nvm.read(mark, 1)[0] != marked || c.faults.markBeforeData {
		c.nvm.rewrite(at, data)
	}
	if crc32.ChecksumIEEE(c.nvm.read(at, len(data))) != sum && !c.faults.noReadBack {
		return swMemory
	}
	c.nvm.program(mark, []byte{marked})
	return swOK
}
