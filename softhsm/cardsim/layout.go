package cardsim

import (
	"bytes"
	"errors"
)

// chunksMax bounds the chunks of a package so that the status with its bitmap fits one short response at level 33 in S16.
const chunksMax = 1360

const (
	fileBytes       = 64
	journalCapacity = 56 + 199 // fixed fields and the longest manifest
)

// layout says where everything is in the memory.
type layout struct {
	journal  record
	keys     record
	auth     record   // failed authentications left, 1 byte
	sequence []record // of each key set: generation of its keys (1), sequence counter (3)
	pin      record   // PIN tries left, 1 byte
	atc      record   // application transaction counter, 2 bytes
	file     record   // the transparent file
	marks    int      // one byte per chunk: 00 = received
	banks    [2]int
	legacy   record // SCP02 sequence counter, 2 bytes; only on a card that has SCP02 keys
	size     int
}

// newLayout places everything for this page size; in flash each slot, the marks and each bank begin a page of their own, so
// that no erasure touches anything but what is being replaced.
func newLayout(cfg Config, pageBytes int) layout {
	var l layout
	area := func(size int) int {
		at := l.size
		l.size += size
		if pageBytes > 0 {
			l.size = (l.size + pageBytes - 1) / pageBytes * pageBytes
		}
		return at
	}
	pair := func(capacity int) record {
		size := capacity + recordOverhead
		return record{slots: [2]int{area(size), area(size)}, capacity: capacity}
	}
	l.journal = pair(journalCapacity)
	l.keys = pair(keyringCapacity)
	l.auth = pair(1)
	for range keySetsMax {
		l.sequence = append(l.sequence, pair(4))
	}
	l.pin = pair(1)
	l.atc = pair(2)
	l.file = pair(fileBytes)
	l.marks = area(chunksMax)
	l.banks = [2]int{area(cfg.BankBytes), area(cfg.BankBytes)}
	if cfg.Legacy.KVN != 0 {
		l.legacy = pair(2)
	}
	return l
}

// personalise gives a blank memory its size and factory contents. A memory that has contents must have been made for the
// same layout.
func (c *Card) personalise() error {
	if len(c.nvm.data) > 0 {
		if len(c.nvm.data) != c.layout.size {
			return errors.New("cardsim: memory was made for another configuration")
		}
		return nil
	}
	c.nvm.data = bytes.Repeat([]byte{0xFF}, c.layout.size)
	c.nvm.rewrite(c.layout.banks[0], c.cfg.Image)
	c.storeJournal(journal{
		version: c.cfg.Version,
		counter: c.cfg.SecurityCounter,
		image:   describe(c.cfg.Image),
	})
	c.layout.auth.store(c.nvm, []byte{byte(c.cfg.AuthTries)})
	c.layout.keys.store(c.nvm, newKeyring(c.cfg).encode())
	c.layout.pin.store(c.nvm, []byte{pinTries})
	c.layout.atc.store(c.nvm, []byte{0, 0})
	c.layout.file.store(c.nvm, make([]byte, fileBytes))
	c.nvm.writes = 0
	return nil
}
