package tiles

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
)

// bundleBytesMax is the greatest length of an entry bundle.
const bundleBytesMax = width * (2 + audit.EntryBytesMax)

var errFraming = errors.New("tiles: not an entry bundle")

// appendEntry writes an entry into a bundle: length and encoding ([tlog-tiles],
// Log entries).
func appendEntry(bundle, encoding []byte) ([]byte, error) {
	if len(encoding) == 0 || len(encoding) > audit.EntryBytesMax {
		return nil, fmt.Errorf("tiles: an entry of %d bytes", len(encoding))
	}
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(encoding))), encoding...), nil
}

// cutEntry takes the first entry from a bundle.
func cutEntry(bundle []byte) (encoding, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, errFraming
	}
	n := int(binary.BigEndian.Uint16(bundle))
	if n == 0 || n > audit.EntryBytesMax || n > len(bundle)-2 {
		return nil, nil, errFraming
	}
	return bundle[2 : 2+n], bundle[2+n:], nil
}

// checkBundle compares the entries of a bundle with their proven leaf hashes. It
// returns the place of the first that differs, or the number of hashes where
// something follows the last entry, or -1.
func checkBundle(bundle []byte, hashes []byte) int {
	for i := range len(hashes) / tlog.HashSize {
		encoding, rest, err := cutEntry(bundle)
		if err != nil || audit.LeafHash(encoding) != hashAt(hashes, i) {
			return i
		}
		bundle = rest
	}
	if len(bundle) > 0 {
		return len(hashes) / tlog.HashSize
	}
	return -1
}

// hashAt returns one hash of a tile.
func hashAt(hashes []byte, i int) tlog.Hash {
	return tlog.Hash(hashes[i*tlog.HashSize : (i+1)*tlog.HashSize])
}
