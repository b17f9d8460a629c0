package tiles

import (
	"fmt"
	"strings"
	"testing"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// TestPaths has the examples of [tlog-tiles], Merkle Tree and Partial Tiles.
func TestPaths(t *testing.T) {
	for want, file := range map[string]tile{
		"tile/0/x001/x234/067":          {0, 1234067, 256},
		"tile/entries/x001/x234/067":    {entriesLevel, 1234067, 256},
		"tile/1/000.p/1":                {1, 0, 1},
		"tile/0/273.p/112":              {0, 273, 112},
		"tile/entries/x999/000.p/255":   {entriesLevel, 999000, 255},
		"tile/7/000":                    {7, 0, 256},
		"tile/0/x001/000":               {0, 1000, 256},
		"tile/entries/x001/x000/000":    {entriesLevel, 1000000, 256},
		"tile/0/x009/x223/x372/036/854": {},
	} {
		if got, ok := parsePath(want); ok != (file != tile{}) || ok && (got != file || file.path() != want) {
			t.Errorf("%s: %+v, %v; %s", want, got, ok, file.path())
		}
	}
	for _, path := range []string{"", "tile", "tile/0", "tile/0/", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/8/000", "tile/-1/000",
		"tile/0/x000/000", "tile/0/001/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/1/2", "tile/0/000.p",
		"tile/0/000.part", "tile/0/-01", "tile/0/x001/x001", "tile/entries/", "tile/Entries/000", "tile/0/99999999999999999999", "checkpoint"} {
		if got, ok := parsePath(path); ok {
			t.Errorf("%q is read as %+v", path, got)
		}
	}
}

// TestPathsAgree compares with golang.org/x/mod, which writes the height too.
func TestPathsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file := tile{rapid.IntRange(-1, 7).Draw(t, "level"), rapid.Int64Range(0, 1<<40).Draw(t, "n"), rapid.IntRange(1, 256).Draw(t, "width")}
		other := tlog.Tile{H: height, L: file.level, N: file.n, W: file.width}.Path()
		want := strings.Replace(strings.Replace(other, "tile/8/", "tile/", 1), "/data/", "/entries/", 1)
		got, ok := parsePath(want)
		if file.path() != want || !ok || got != file {
			t.Errorf("%s: %+v, want %s", file.path(), got, want)
		}
	})
}

// TestWidths has the example of [tlog-tiles], Partial Tiles: a log of 70,000.
func TestWidths(t *testing.T) {
	for _, tt := range []struct {
		size         int64
		level        int
		whole, width int
	}{
		{70000, 0, 273, 112}, {70000, entriesLevel, 273, 112}, {70000, 1, 1, 17}, {70000, 2, 0, 1}, {70000, 3, 0, 0},
		{7, 0, 0, 7}, {256, 0, 1, 0}, {256, 1, 0, 1}, {0, 0, 0, 0}, {65536, 2, 0, 1},
	} {
		whole, last := 0, 0
		for n := range files(tt.size, tt.level) {
			if w := widthIn(tt.size, tt.level, n); w == width {
				whole++
			} else {
				last = w
			}
		}
		if whole != tt.whole || last != tt.width {
			t.Errorf("%d at level %d: %d whole files and one of %d", tt.size, tt.level, whole, last)
		}
	}
}

// TestFarTile: 256 times the number of this file is 0 in 64 bits.
func TestFarTile(t *testing.T) {
	file, ok := parsePath("tile/0/x072/x057/x594/x037/x927/936.p/7")
	if !ok || file.belongsTo(7) || file.belongsTo(1<<62) {
		t.Errorf("%+v, %v: taken for a file of a log of 7 entries", file, ok)
	}
}

// TestTowerAgrees compares the tiles with those that golang.org/x/mod reads from
// stored hashes.
func TestTowerAgrees(t *testing.T) {
	for _, size := range []int64{0, 1, 2, 255, 256, 257, 1000, 65536, 66000} {
		var edge audit.Edge
		var stored []tlog.Hash
		got := map[tile][]byte{}
		w := tower{emit: func(file tile, hashes []byte) error {
			got[file] = append([]byte(nil), hashes...)
			return nil
		}}
		for n := range size {
			leaf := audit.LeafHash(fmt.Appendf(nil, "%d", n))
			stored = append(stored, edge.Append(leaf)...)
			if err := w.add(leaf); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.finish(); err != nil || w.edge.Root() != edge.Root() {
			t.Fatal(err, "or another root")
		}
		read := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
			for _, i := range indexes {
				out = append(out, stored[i])
			}
			return out, nil
		})
		for file, hashes := range got {
			want, err := tlog.ReadTileData(tlog.Tile{H: height, L: file.level, N: file.n, W: file.width}, read)
			if err != nil || string(want) != string(hashes) || !file.belongsTo(size) {
				t.Errorf("size %d, %s: %v", size, file.path(), err)
			}
		}
		count := int64(0)
		for level := range levels {
			count += files(size, level)
		}
		if int64(len(got)) != count {
			t.Errorf("size %d: %d tiles, want %d", size, len(got), count)
		}
	}
}
