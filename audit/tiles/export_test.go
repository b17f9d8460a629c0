package tiles

import (
	"iter"

	"cardkms/audit"
)

// What the tests read of a directory by another path than Verify's, to compare both.

// Log returns the log of this size for audit.VerifyLog, which trusts nothing of
// the directory.
func (d Dir) Log(origin string, size int64) audit.Log {
	return audit.Log{Origin: origin, Entries: d.Entries(0, size), LeafHashes: d.LeafHashes(0, size)}
}

// Entries yields the encodings of the entries [from, size) of a log of this size.
// An encoding is valid until the next.
func (d Dir) Entries(from, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for n := from / width; n < files(size, entriesLevel); n++ {
			bundle, err := d.bundle(n, widthIn(size, entriesLevel, n))
			for seq := n * width; err == nil && seq < min(size, (n+1)*width); seq++ {
				var encoding []byte
				if encoding, bundle, err = cutEntry(bundle); err == nil && seq >= from && !yield(encoding, nil) {
					return
				}
			}
			if err == nil && len(bundle) > 0 {
				err = errFraming
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}
