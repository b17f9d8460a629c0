package tiles

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// segment is a directory whose checkpoint is signed by the log.
type segment struct {
	Dir
	note       []byte
	checkpoint audit.Checkpoint
	differs    *tile // first tile above level 0 that is not over the hashes below it
	child      int64 // tile of level 0 below the first hash of level 1 that differs, or -1
}

func openSegment(d Dir, log note.Verifier) (*segment, error) {
	c, msg, err := d.Checkpoint(log)
	if err != nil {
		return nil, err
	}
	return &segment{Dir: d, note: msg, checkpoint: c, child: -1}, nil
}

// inventory refuses files that the checkpoint does not call for. Files outside
// tile are none of the log's: an auditor may keep keys and notes beside it.
func (s *segment) inventory() error {
	err := fs.WalkDir(s.FS, tileDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if t, ok := parsePath(path); !ok || !t.belongsTo(s.checkpoint.Size) {
			return s.bad(path, "is no file of the log that the checkpoint signed", nil)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the log is empty, or prove finds what is missing
	}
	return err
}

// prove checks that the hash tiles are those of the tree that the checkpoint
// signed, and that the tree starts with those of the older segments, which are
// given in ascending size.
func (s *segment) prove(older []*segment) error {
	w := tower{emit: s.compare}
	for n := range files(s.checkpoint.Size, 0) {
		hashes, err := s.hashes(tile{0, n, widthIn(s.checkpoint.Size, 0, n)})
		if err != nil {
			return err
		}
		for i := range len(hashes) / tlog.HashSize {
			for ; len(older) > 0 && older[0].checkpoint.Size == w.edge.Size(); older = older[1:] {
				if err := s.startsWith(older[0], w.edge.Root()); err != nil {
					return err
				}
			}
			if err := w.add(hashAt(hashes, i)); err != nil {
				return err
			}
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	if w.edge.Root() != s.checkpoint.Root {
		return s.blame()
	}
	if s.differs != nil {
		return s.bad(s.differs.path(), "is not over the hashes that the checkpoint signed", nil)
	}
	for _, o := range older {
		if err := s.startsWith(o, w.edge.Root()); err != nil {
			return err
		}
	}
	return nil
}

func (s *segment) startsWith(older *segment, root tlog.Hash) error {
	if older.checkpoint.Root == root {
		return nil
	}
	return older.bad(checkpointFile, fmt.Sprintf("signs another history than %s/%s", s.Name, checkpointFile), nil)
}

// compare compares a tile above level 0 with the one that the hashes below it
// give. A difference does not end the pass: only the root tells which of the two
// is wrong.
func (s *segment) compare(t tile, want []byte) error {
	if t.level == 0 {
		return nil
	}
	got, err := s.hashes(t)
	if err != nil || bytes.Equal(got, want) {
		return err
	}
	if s.differs == nil {
		s.differs = &t
	}
	for i := 0; t.level == 1 && s.child < 0; i++ {
		if hashAt(got, i) != hashAt(want, i) {
			s.child = t.n*width + int64(i)
		}
	}
	return nil
}

// blame names the hash tile because of which the root is wrong: one that its
// entries contradict, or else one that the tile above contradicts.
func (s *segment) blame() error {
	reason := "is not what the checkpoint signed"
	for n := range files(s.checkpoint.Size, 0) {
		t := tile{0, n, widthIn(s.checkpoint.Size, 0, n)}
		bundle, err1 := s.bundle(n, t.width)
		hashes, err2 := s.hashes(t)
		if err1 == nil && err2 == nil && checkBundle(bundle, hashes) >= 0 {
			return s.bad(t.path(), reason, nil)
		}
	}
	if s.child >= 0 {
		return s.bad(tile{0, s.child, widthIn(s.checkpoint.Size, 0, s.child)}.path(), reason, nil)
	}
	return s.bad(tileDir, "holds another log", audit.ErrRoot)
}

// entries compares a bundle with its proven hashes and returns it with the number
// of its entries; none where the segment does not hold it.
func (s *segment) entries(n int64) (bundle []byte, count int, err error) {
	t := tile{entriesLevel, n, widthIn(s.checkpoint.Size, entriesLevel, n)}
	if t.width == 0 {
		return nil, 0, nil
	}
	bundle, err = s.bundle(n, t.width)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil || n == bundleUnchecked {
		return bundle, t.width, err
	}
	hashes, err := s.hashes(tile{0, n, t.width})
	if err != nil {
		return nil, 0, err
	}
	switch i := checkBundle(bundle, hashes); {
	case i == t.width:
		return nil, 0, s.bad(t.path(), "goes on after its last entry", nil)
	case i >= 0:
		entry := &audit.EntryError{Sequence: n*width + int64(i), Reason: "is not the entry that the checkpoint signed"}
		return nil, 0, s.bad(t.path(), "was changed", entry)
	}
	return bundle, t.width, nil
}
