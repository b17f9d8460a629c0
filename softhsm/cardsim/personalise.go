package cardsim

import "crypto/aes"

// Personalise returns the keys that a card factory puts on the card with this
// key diversification data, computed from plain masters as GlobalPlatformPro's
// "kdf3" does: output block i of purpose t is CMAC(master, i | 00 00 00 t 00 |
// KDD), t = 1 ENC, 2 MAC, 3 DEK, and 4 for the update key of a card-update
// master. size is the length of the card keys in bytes. A factory knows masters;
// the service that manages the card never does.
func Personalise(master []byte, kdd [10]byte, kvn byte, size int) (KeySet, error) {
	set := KeySet{KVN: kvn}
	for t, dst := range map[byte]*[]byte{1: &set.ENC, 2: &set.MAC, 3: &set.DEK} {
		k, err := kdf3(master, kdd, t, size)
		if err != nil {
			return set, err
		}
		*dst = k
	}
	return set, nil
}

// PersonaliseUpdate returns the update key of a card.
func PersonaliseUpdate(master []byte, kdd [10]byte, kvn byte, size int) (UpdateKey, error) {
	k, err := kdf3(master, kdd, 4, size)
	return UpdateKey{KVN: kvn, ID: 1, Value: k}, err
}

func kdf3(master []byte, kdd [10]byte, t byte, size int) ([]byte, error) {
	if _, err := aes.NewCipher(master); err != nil {
		return nil, err
	}
	var out []byte
	for i := byte(1); len(out) < size; i++ {
		block := append([]byte{i, 0, 0, 0, t, 0}, kdd[:]...)
		mac := cmac(master, block)
		out = append(out, mac[:]...)
	}
	return out[:size], nil
}
