package tiles

import (
	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
)

// tower computes the hash tiles of a log from its leaf hashes. It holds one tile
// of each level. The zero value with an emit is the empty log.
type tower struct {
	edge   audit.Edge
	levels [levels][]byte
	// emit gets each tile when it is complete, level 0 first, and must not keep
	// the hashes.
	emit func(t tile, hashes []byte) error
}

// add takes the next leaf hash.
func (w *tower) add(leaf tlog.Hash) error {
	// Append returns the leaf and each subtree that it completes, by height; every
	// eighth of them is a hash of a tile.
	stored := w.edge.Append(leaf)
	for level := 0; level*height < len(stored); level++ {
		w.levels[level] = append(w.levels[level], stored[level*height][:]...)
		if len(w.levels[level]) == width*tlog.HashSize {
			if err := w.flush(level); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish emits the partial tiles.
func (w *tower) finish() error {
	for level := range w.levels {
		if len(w.levels[level]) > 0 {
			if err := w.flush(level); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *tower) flush(level int) error {
	hashes := w.levels[level]
	w.levels[level] = hashes[:0]
	n := (w.edge.Size()>>(height*level) - 1) >> height
	return w.emit(tile{level, n, len(hashes) / tlog.HashSize}, hashes)
}
