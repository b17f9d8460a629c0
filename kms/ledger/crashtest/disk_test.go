package crashtest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// sectorBytes is what a disk writes as a whole.
const sectorBytes = 512

// disk is what a kernel and a disk hold of one directory. A file holds for good
// what was written before its last fsync; a name, what was done before the last
// fsync of the directory. Of what came later any part may be lost: each write by
// itself, or its end; names, from some moment on, for file systems keep a journal
// of names.
type disk struct {
	names  map[string]*file // as the process sees them
	stable map[string]*file
	since  []nameChange // since the last fsync of the directory
}

// file is what was written to a file.
type file struct {
	stable []byte
	since  []change // since its last fsync
}

// change is a write, or a cut if data is nil.
type change struct {
	at   int64
	data []byte
}

func (c change) apply(b []byte) []byte {
	end := c.at + int64(len(c.data))
	if c.data == nil {
		b = b[:min(int64(len(b)), c.at)]
	}
	if grow := end - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[c.at:], c.data)
	return b
}

// nameChange gives a name to a file, or takes it away if there is none.
type nameChange struct {
	name string
	file *file
}

func (c nameChange) apply(names map[string]*file) {
	if c.file == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.file
	}
}

func newDisk() *disk { return &disk{names: map[string]*file{}, stable: map[string]*file{}} }

func (d *disk) rename(name string, f *file) {
	c := nameChange{name, f}
	c.apply(d.names)
	d.since = append(d.since, c)
}

// loss decides what a loss of power leaves.
type loss struct {
	*rand.Rand
	keep float64 // how likely it is that a write is kept
}

// image returns the files that are left. The shared memory of SQLite is left out:
// nobody synchronises it, and the first process to open it makes it anew.
func (d *disk) image(l loss) map[string][]byte {
	names := maps.Clone(d.stable)
	for _, c := range d.since[:l.part(len(d.since))] {
		c.apply(names)
	}
	left := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if strings.HasSuffix(name, "-shm") {
			continue
		}
		b := slices.Clone(names[name].stable)
		for _, c := range names[name].since {
			if l.Float64() < l.keep {
				b = l.torn(c).apply(b)
			}
		}
		left[name] = b
	}
	return left
}

// part returns how many of n things in order are kept.
func (l loss) part(n int) int {
	switch l.keep {
	case 0:
		return 0
	case 1:
		return n
	}
	return l.IntN(n + 1)
}

// torn returns a change, or its beginning.
func (l loss) torn(c change) change {
	if c.data == nil || l.keep == 1 || l.IntN(4) > 0 {
		return c
	}
	return change{c.at, c.data[:min(len(c.data), sectorBytes*l.IntN(len(c.data)/sectorBytes+1))]}
}

// step is one system call of the recorded script, or a line that it printed.
type step struct {
	call    string
	paths   []string // files of the directory that it names, without the directory
	data    []byte
	numbers []int64 // the numbers after the data
	create  bool
	printed string
}

// do does to the disk what the call did; blind disks do not see fsync.
func (d *disk) do(s step, blind bool) {
	first := ""
	if len(s.paths) > 0 {
		first = s.paths[0]
	}
	f := d.names[first]
	switch {
	case strings.HasPrefix(s.call, "open") && s.create && f == nil:
		d.rename(first, &file{})
	case s.call == "pwrite64":
		f.since = append(f.since, change{s.numbers[1], s.data})
	case s.call == "write":
		f.since = append(f.since, change{f.size(), s.data})
	case s.call == "ftruncate":
		f.since = append(f.since, change{s.numbers[0], nil})
	case strings.HasPrefix(s.call, "rename"):
		d.rename(s.paths[1], f)
		d.rename(first, nil)
	case strings.HasPrefix(s.call, "unlink"):
		d.rename(first, nil)
	case s.call == "fsync" || s.call == "fdatasync":
		if !blind {
			d.sync(first)
		}
	}
}

func (f *file) size() int64 { return int64(len(f.content())) }

func (f *file) content() []byte {
	b := slices.Clone(f.stable)
	for _, c := range f.since {
		b = c.apply(b)
	}
	return b
}

func (d *disk) sync(name string) {
	if f := d.names[name]; f != nil {
		f.stable, f.since = f.content(), nil
		return
	}
	d.stable, d.since = maps.Clone(d.names), nil // it was the directory
}
