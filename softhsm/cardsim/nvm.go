package cardsim

import (
	"bytes"
	"math/rand"
)

// Tear says what a write leaves behind when the power is cut during it.
type Tear byte

// The four tear modes.
const (
	TearLost    Tear = iota // the old value
	TearDone                // the new value, but nothing after it
	TearHalf                // a mixture: half the bits of a byte, the first half of a page
	TearGarbage             // a value that was neither old nor new, from a seeded generator
)

// Tears lists all tear modes.
var Tears = []Tear{TearLost, TearDone, TearHalf, TearGarbage}

// NVM is the memory that survives power loss. With page size 0 it is byte-alterable (EEPROM) and a byte write is the unit
// that can be torn. Otherwise it is flash: erasing sets a whole page to FF, programming only clears bits, and one erasure or
// one programming of one page is the unit. A power cut is a panic with an internal value that only the Card recovers.
type NVM struct {
	pageBytes int
	data      []byte
	writes    int
	cutAt     int // write number at which the power fails; 0 = never
	tear      Tear
	noise     *rand.Rand
	stuck     []stuckBit
}

type stuckBit struct {
	addr int
	mask byte
	one  bool
}

// powerCut travels from the torn write to Transmit or PowerOn.
type powerCut struct{}

// NewNVM returns a blank memory: byte-alterable when pageBytes is 0, otherwise flash with pages of that size. New gives it
// the size that the card needs.
func NewNVM(pageBytes int) *NVM {
	if pageBytes < 0 {
		panic("cardsim: negative page size")
	}
	return &NVM{pageBytes: pageBytes, noise: rand.New(rand.NewSource(1))}
}

// Writes returns the number of writes so far: bytes changed, or pages programmed and erased.
func (n *NVM) Writes() int { return n.writes }

// CutAt arms one power cut at the count-th write from now (1 = the next one). It disarms when it strikes; count 0 disarms it.
func (n *NVM) CutAt(count int, tear Tear) {
	n.cutAt, n.tear = 0, tear
	if count > 0 {
		n.cutAt = n.writes + count
		n.noise = rand.New(rand.NewSource(int64(n.cutAt)))
	}
}

// StickBit makes the bit of this address read as one or as zero whatever was written.
func (n *NVM) StickBit(addr int, bit uint, one bool) {
	n.stuck = append(n.stuck, stuckBit{addr, 1 << bit, one})
}

// ClearFaults disarms the power cut and frees all stuck bits.
func (n *NVM) ClearFaults() { n.cutAt, n.stuck = 0, nil }

// Clone returns an independent copy without the armed faults.
func (n *NVM) Clone() *NVM {
	c := NewNVM(n.pageBytes)
	c.data, c.writes = bytes.Clone(n.data), n.writes
	return c
}

// read returns a copy of size bytes as the memory delivers them, stuck bits included.
func (n *NVM) read(addr, size int) []byte {
	b := bytes.Clone(n.data[addr : addr+size])
	for _, s := range n.stuck {
		if s.addr < addr || s.addr >= addr+size {
			continue
		}
		b[s.addr-addr] &^= s.mask
		if s.one {
			b[s.addr-addr] |= s.mask
		}
	}
	return b
}

// rewrite replaces the bytes at addr. In flash addr begins a page, and the rest of the last page is lost.
func (n *NVM) rewrite(addr int, data []byte) {
	if n.pageBytes == 0 {
		n.writeBytes(addr, data)
		return
	}
	for len(data) > 0 {
		part := data[:min(n.pageBytes, len(data))]
		n.erase(addr)
		n.program(addr, part)
		addr, data = addr+n.pageBytes, data[len(part):]
	}
}

// program writes bytes that are blank; in flash the bits that are already zero stay zero.
func (n *NVM) program(addr int, data []byte) {
	if n.pageBytes == 0 {
		n.writeBytes(addr, data)
		return
	}
	old := bytes.Clone(n.data[addr : addr+len(data)])
	for i := range data {
		n.data[addr+i] &= data[i]
	}
	if n.strikes() {
		n.tearRange(addr, old)
	}
}

// blank sets size bytes at addr to FF. In flash addr begins a page and whole pages are erased.
func (n *NVM) blank(addr, size int) {
	if n.pageBytes == 0 {
		n.writeBytes(addr, bytes.Repeat([]byte{0xFF}, size))
		return
	}
	for end := addr + size; addr < end; addr += n.pageBytes {
		n.erase(addr)
	}
}

// erase sets a page to FF unless it is blank already.
func (n *NVM) erase(addr int) {
	page := n.data[addr : addr+n.pageBytes]
	old, ff := bytes.Clone(page), bytes.Repeat([]byte{0xFF}, n.pageBytes)
	if bytes.Equal(page, ff) {
		return
	}
	copy(page, ff)
	if n.strikes() {
		n.tearRange(addr, old)
	}
}

// writeBytes is the byte-alterable write. A byte that has its value already is not written, as real drivers do.
func (n *NVM) writeBytes(addr int, data []byte) {
	for i, v := range data {
		old := n.data[addr+i]
		if old == v {
			continue
		}
		n.data[addr+i] = v
		if n.strikes() {
			n.tearByte(addr+i, old)
		}
	}
}

// strikes counts one write and reports whether the power fails during it.
func (n *NVM) strikes() bool {
	n.writes++
	if n.writes != n.cutAt {
		return false
	}
	n.cutAt = 0
	return true
}

// tearByte leaves the torn value of one byte whose new value is already in place, and cuts the power.
func (n *NVM) tearByte(addr int, old byte) {
	switch n.tear {
	case TearLost:
		n.data[addr] = old
	case TearHalf:
		n.data[addr] = old&0xF0 | n.data[addr]&0x0F
	case TearGarbage:
		n.data[addr] = byte(n.noise.Intn(0x100))
	}
	panic(powerCut{})
}

// tearRange is tearByte for a page operation. Garbage is anything for an erasure; the noise of a programming is no different,
// because a marginal cell may read either way.
func (n *NVM) tearRange(addr int, old []byte) {
	switch n.tear {
	case TearLost:
		copy(n.data[addr:], old)
	case TearHalf:
		copy(n.data[addr+(len(old)+1)/2:], old[(len(old)+1)/2:])
	case TearGarbage:
		n.noise.Read(n.data[addr : addr+len(old)])
	}
	panic(powerCut{})
}
