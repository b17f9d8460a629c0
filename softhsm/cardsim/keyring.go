package cardsim

import "slices"

// keySetsMax is the number of SCP03 key sets for which the card has room.
const keySetsMax = 4

const keyringCapacity = 1 + keySetsMax*(3+3*32) + 3 + 32

// keyring is all keys of the card. It is one record, so a PUT KEY takes effect as a whole or not at all.
type keyring struct {
	sets   []ringSet // the first one is the default
	update UpdateKey
}

// ringSet is a key set and the number of times its place was given new keys. A place whose set was deleted stays, with KVN 00
// and no keys, so that the counters of the others stay where they are. The sequence counter is stored with that
// number: counters of former keys do not count, without a second write.
type ringSet struct {
	KeySet
	generation byte
}

func newKeyring(cfg Config) keyring {
	k := keyring{update: cfg.UpdateKey}
	for _, s := range cfg.KeySets {
		k.sets = append(k.sets, ringSet{KeySet: s})
	}
	return k
}

// encode is: number of sets (1), per set KVN | generation | key length | ENC | MAC | DEK, then KVN | id | length | K-UPD.
func (k keyring) encode() []byte {
	b := []byte{byte(len(k.sets))}
	for _, s := range k.sets {
		b = append(b, s.KVN, s.generation, byte(len(s.ENC)))
		b = slices.Concat(b, s.ENC, s.MAC, s.DEK)
	}
	b = append(b, k.update.KVN, k.update.ID, byte(len(k.update.Value)))
	return append(b, k.update.Value...)
}

// decodeKeyring is the inverse of encode; the CRC of the record has vouched for b.
func decodeKeyring(b []byte) (k keyring) {
	take := func(n int) []byte {
		part := b[:n:n]
		b = b[n:]
		return part
	}
	for range int(take(1)[0]) {
		h := take(3)
		n := int(h[2])
		k.sets = append(k.sets, ringSet{KeySet{h[0], take(n), take(n), take(n)}, h[1]})
	}
	h := take(3)
	k.update = UpdateKey{KVN: h[0], ID: h[1]}
	if h[2] > 0 {
		k.update.Value = take(int(h[2]))
	}
	return k
}

// find returns the index of the key set that P1 of INITIALIZE UPDATE names, or -1.
func (k keyring) find(kvn byte) int {
	return slices.IndexFunc(k.sets, func(s ringSet) bool { return s.KVN != 0 && (kvn == 0 || s.KVN == kvn) })
}

// vacant returns the place for one more key set: a free one, or the one behind the last.
func (k keyring) vacant() int {
	if i := slices.IndexFunc(k.sets, func(s ringSet) bool { return s.KVN == 0 }); i >= 0 {
		return i
	}
	return len(k.sets)
}

// storeKeys makes k the keys of the card, now and after every later reset.
func (c *Card) storeKeys(k keyring) {
	c.layout.keys.store(c.nvm, k.encode())
	c.ram.keys = k
}

// loadSequence returns the sequence counter of a key set.
func (c *Card) loadSequence(set int) uint32 {
	b, ok := c.layout.sequence[set].load(c.nvm)
	if !ok || len(b) != 4 || b[0] != c.ram.keys.sets[set].generation {
		return 0
	}
	return uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// storeSequence stores the sequence counter of a key set and returns its three bytes.
func (c *Card) storeSequence(set int, n uint32) []byte {
	counter := []byte{byte(n >> 16), byte(n >> 8), byte(n)}
	c.layout.sequence[set].store(c.nvm, append([]byte{c.ram.keys.sets[set].generation}, counter...))
	return counter
}

// keySets returns the present key sets.
func (c *Card) keySets() []KeySet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keyring()
}

// keyring is keySets for who holds the lock.
func (c *Card) keyring() []KeySet {
	var list []KeySet
	for _, s := range c.ram.keys.sets {
		if s.KVN != 0 {
			list = append(list, s.KeySet)
		}
	}
	return list
}
