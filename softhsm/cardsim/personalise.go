package cardsim

import (
	"bytes"
	"crypto/aes"
)

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

// PersonaliseLegacy returns the SCP02 keys that a factory puts on a card of this "i" parameter, computed from a plain master
// of 16 bytes as GlobalPlatformPro's "visa2" does: 3DES-ECB over x | F0 t | x | 0F t, x = KDD[0..1] | KDD[4..7].
func PersonaliseLegacy(master []byte, kdd [10]byte, kvn, i byte) LegacyKeys {
	x := append(bytes.Clone(kdd[0:2]), kdd[4:8]...)
	key := func(t byte) []byte {
		out, cipher := make([]byte, 16), triple(master)
		cipher.Encrypt(out, append(bytes.Clone(x), 0xF0, t))
		cipher.Encrypt(out[8:], append(bytes.Clone(x), 0x0F, t))
		return out
	}
	return LegacyKeys{KVN: kvn, I: i, ENC: key(1), MAC: key(2), DEK: key(3)}
}
