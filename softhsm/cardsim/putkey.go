package cardsim

import (
	"bytes"
	"crypto/cipher"
	"slices"
)

// PUT KEY ([AmdD], Section 7.2): P1 is the key version to replace, 00 for a new one; P2 the identifier of the first key, with
// bit 80 when several follow.
const (
	putKeySeveral = 0x80
	keyTypeAES    = 0x88
)

// putKey replaces or adds a key set (three keys from identifier 01), or replaces K-UPD (one key). The answer is the new key
// version and the key check values. Dying in it leaves the old keys or the new ones.
func (c *Card) putKey(cmd command, s *session) ([]byte, word) {
	if !s.reaches(levelCMAC) {
		return nil, swSecurity
	}
	if s.legacy != nil { // an AES key does not travel under 3DES
		return nil, swConditions
	}
	if len(cmd.data) == 0 {
		return nil, swLength
	}
	kvn, keys := cmd.data[0], [][]byte(nil)
	for rest := cmd.data[1:]; len(rest) > 0; {
		var key []byte
		var ok bool
		if key, rest, ok = c.keyBlock(rest, s.dek); !ok {
			return nil, swData
		}
		keys = append(keys, key)
	}
	if kvn == 0 || kvn > 0x7F {
		return nil, swData
	}
	sw := swData
	switch {
	case len(keys) == 3 && cmd.p2 == putKeySeveral|0x01:
		sw = c.putKeySet(cmd.p1, KeySet{kvn, keys[0], keys[1], keys[2]})
	case len(keys) == 1 && cmd.p2 < putKeySeveral:
		sw = c.putUpdateKey(cmd.p1, UpdateKey{kvn, cmd.p2, keys[0]})
	}
	if sw != swOK {
		return nil, sw
	}
	answer := []byte{kvn}
	for _, k := range keys {
		answer = append(answer, keyCheckValue(k)...)
	}
	return answer, swOK
}

// keyBlock reads one block: 88 | length | key length | AES-CBC(DEK, IV 0, key padded with zeros) | 03 | key check value. The
// quirk drops the key length of keys that need no padding.
func (c *Card) keyBlock(b, dek []byte) (key, rest []byte, ok bool) {
	if len(b) < 3 || b[0] != keyTypeAES || len(b) < 2+int(b[1])+4 {
		return nil, nil, false
	}
	field, rest := b[2:2+b[1]], b[2+b[1]:]
	size := len(field)
	if !c.cfg.Quirks.PutKeyNoLength || size%16 != 0 {
		size, field = int(field[0]), field[1:]
	}
	key = make([]byte, size)
	if !keySize(key) || len(field) != (size+15)/16*16 {
		return nil, nil, false
	}
	cipher.NewCBCDecrypter(blockCipher(dek), make([]byte, 16)).CryptBlocks(field, bytes.Clone(field))
	copy(key, field)
	if rest[0] != 3 || !equal(rest[1:4], keyCheckValue(key)) {
		return nil, nil, false
	}
	return key, rest[4:], true
}

// keyCheckValue is the first three bytes of a block of 01 encrypted under the key (GlobalPlatform, AES keys).
func keyCheckValue(key []byte) []byte {
	out := bytes.Repeat([]byte{0x01}, 16)
	blockCipher(key).Encrypt(out, out)
	return out[:3]
}

// putKeySet puts a key set in the place of an old one or in a free place.
func (c *Card) putKeySet(old byte, set KeySet) word {
	ring := keyring{sets: slices.Clone(c.ram.keys.sets), update: c.ram.keys.update}
	place, taken := ring.vacant(), ring.find(set.KVN)
	if old != 0 {
		place = ring.find(old)
	}
	switch {
	case len(set.MAC) != len(set.ENC), len(set.DEK) != len(set.ENC):
		return swData
	case place < 0:
		return swReference
	case taken >= 0 && taken != place, set.KVN == ring.update.KVN && ring.update.Value != nil:
		return swData
	case place == keySetsMax:
		return swFull
	case place == len(ring.sets):
		// Counters of a place that was never used are absent, which counts as zero.
		ring.sets = append(ring.sets, ringSet{KeySet: set})
	default:
		ring.sets[place] = ringSet{set, ring.sets[place].generation + 1}
	}
	c.storeKeys(ring)
	return swOK
}

// putUpdateKey replaces K-UPD. The version must be a new one: the manifest of the last package names the key it was made for,
// and must not seem to belong to another. A package in progress needs its key.
func (c *Card) putUpdateKey(old byte, key UpdateKey) word {
	present := c.ram.keys.update
	j, ok := c.loadJournal()
	switch {
	case present.Value == nil, old != present.KVN, key.ID != present.ID:
		return swReference
	case key.KVN == present.KVN, c.ram.keys.find(key.KVN) >= 0:
		return swData
	case !ok, j.needsPackage():
		return swConditions
	}
	c.storeKeys(keyring{sets: c.ram.keys.sets, update: key})
	c.hold(j)
	return swOK
}

// deleteKey takes a key set away: D2 01 KVN ([GPCS], Section 11.2). The set that the session stands on stays. Dying in it
// leaves all sets or all but one.
func (c *Card) deleteKey(cmd command, s *session) ([]byte, word) {
	if !s.reaches(levelCMAC) {
		return nil, swSecurity
	}
	if len(cmd.data) != 3 || cmd.data[0] != 0xD2 || cmd.data[1] != 1 {
		return nil, swData
	}
	ring := keyring{sets: slices.Clone(c.ram.keys.sets), update: c.ram.keys.update}
	place := ring.find(cmd.data[2])
	switch {
	case cmd.data[2] == 0, place < 0:
		return nil, swReference
	case cmd.data[2] == s.kvn:
		return nil, swConditions
	}
	ring.sets[place] = ringSet{generation: ring.sets[place].generation}
	c.storeKeys(ring)
	return []byte{0x00}, swOK
}
