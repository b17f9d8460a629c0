package tiles

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// A tile is a tree of this height: 256 hashes, or entries, in a file.
	height = 8
	width  = 1 << height

	checkpointFile = "checkpoint"
	tileDir        = "tile"
	// entriesLevel stands for the level of entry bundles, which are laid out like
	// the hashes of level 0.
	entriesLevel = -1
	// levels covers every tree of fewer than 2^63 leaves.
	levels = 8
)

// tile names one file of a log.
type tile struct {
	level int // entriesLevel, or 0 and up
	n     int64
	width int // 1 to 256
}

// path returns the name of the file below the directory ([tlog-tiles], Merkle
// Tree, Partial Tiles and Log entries).
func (t tile) path() string {
	level := "entries"
	if t.level != entriesLevel {
		level = strconv.Itoa(t.level)
	}
	n := fmt.Sprintf("%03d", t.n%1000)
	for rest := t.n / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	path := tileDir + "/" + level + "/" + n
	if t.width < width {
		path += ".p/" + strconv.Itoa(t.width)
	}
	return path
}

// parsePath returns the tile with this path, and accepts exactly what path
// produces.
func parsePath(path string) (t tile, ok bool) {
	rest, ok := strings.CutPrefix(path, tileDir+"/")
	level, rest, cut := strings.Cut(rest, "/")
	if !ok || !cut {
		return tile{}, false
	}
	t = tile{level: entriesLevel, width: width}
	if level != "entries" {
		t.level, _ = strconv.Atoi(level)
	}
	if rest, partial, is := strings.Cut(rest, ".p/"); is {
		t.width, _ = strconv.Atoi(partial)
		return t, t.number(rest) && t.width > 0 && t.width < width && t.path() == path
	}
	return t, t.number(rest) && t.path() == path
}

func (t *tile) number(s string) bool {
	n, err := strconv.ParseInt(strings.NewReplacer("x", "", "/", "").Replace(s), 10, 64)
	t.n = n
	return err == nil && n >= 0 && t.level >= entriesLevel && t.level < levels
}

// widthIn returns the number of hashes or entries that the file number n of this
// level has in a log of this size: 256, fewer for the last, 0 for none.
func widthIn(size int64, level int, n int64) int {
	if level == entriesLevel {
		level = 0
	}
	hashes := size >> (height * level)
	if n > hashes/width { // before n*width could overflow
		return 0
	}
	return int(max(0, min(width, hashes-n*width)))
}

// belongsTo reports whether a log of this size has this file.
func (t tile) belongsTo(size int64) bool { return widthIn(size, t.level, t.n) == t.width }

// files returns the number of files of this level, the partial one included.
func files(size int64, level int) int64 {
	return (size>>(height*max(level, 0)) + width - 1) >> height
}

// Whole returns the number of entries that the whole bundles of a log of this
// size hold: where its next segment starts.
func Whole(size int64) int64 { return size &^ (width - 1) }
