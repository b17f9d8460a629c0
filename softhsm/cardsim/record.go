package cardsim

import (
	"encoding/binary"
	"hash/crc32"
)

// record is a value that changes atomically: two slots, of which the older is overwritten (CUP-1, rule C7). A slot is
//
//	generation (4) | length (2) | payload | CRC-32 of all before (4)
//
// A power cut while a slot is written breaks its CRC, and the other slot still holds the value before. If it strikes after
// the last byte, the new value holds.
type record struct {
	slots    [2]int // addresses; each slot has its own pages
	capacity int    // greatest payload in bytes
}

const recordOverhead = 10

// slot returns the payload and generation in one slot, or false when it is blank or torn.
func (r record) slot(n *NVM, i int, noCRC bool) (payload []byte, generation uint32, ok bool) {
	b := n.read(r.slots[i], r.capacity+recordOverhead)
	size := int(binary.BigEndian.Uint16(b[4:]))
	if size > r.capacity {
		return nil, 0, false
	}
	sum := binary.BigEndian.Uint32(b[6+size:])
	if crc32.ChecksumIEEE(b[:6+size]) != sum && !noCRC {
		return nil, 0, false
	}
	return b[6 : 6+size], binary.BigEndian.Uint32(b), true
}

// current returns the slot with the highest generation; ok is false when neither slot is readable.
func (r record) current(n *NVM, noCRC bool) (payload []byte, generation uint32, slot int, ok bool) {
	for i := range r.slots {
		p, g, valid := r.slot(n, i, noCRC)
		if valid && (!ok || g > generation) {
			payload, generation, slot, ok = p, g, i, true
		}
	}
	return payload, generation, slot, ok
}

// load returns the value.
func (r record) load(n *NVM) (payload []byte, ok bool) {
	payload, _, _, ok = r.current(n, false)
	return payload, ok
}

// store replaces the value, in the slot that does not hold the present one.
func (r record) store(n *NVM, payload []byte) {
	_, generation, slot, ok := r.current(n, false)
	target := 1 - slot
	if !ok {
		target = 0
	}
	r.put(n, target, generation+1, payload)
}

// put writes one slot.
func (r record) put(n *NVM, slot int, generation uint32, payload []byte) {
	b := binary.BigEndian.AppendUint32(nil, generation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, payload...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	n.rewrite(r.slots[slot], b)
}
