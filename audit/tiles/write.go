package tiles

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Source is a log as far as a checkpoint covers it.
type Source struct {
	Checkpoint []byte // signed note
	// Entries yields the encodings from this sequence on.
	Entries func(from int64) iter.Seq2[[]byte, error]
	// First is the first entry of the segment, a multiple of 256; earlier ones are
	// in an earlier segment, and LeafHashes yields their leaf hashes from this
	// sequence on. Where First is 0, LeafHashes is not called.
	First      int64
	LeafHashes func(from int64) iter.Seq2[tlog.Hash, error]
}

// ErrSource: the directory holds, or the source gives, another log than the
// checkpoint signed.
var ErrSource = errors.New("tiles: the entries are not those that the checkpoint signed")

// Write brings a directory to the state of the source, which is that of a new
// log, of a log that has grown, or of an export that broke off: whole files that
// are there are checked and kept, so that only what follows them is asked of the
// source. The directory must be the source's, or empty.
//
// The checkpoint is written last. If the process dies before that, the directory
// has the old checkpoint, or none, and files that it does not cover; Verify says
// so, and Write goes on from there.
func Write(dir string, log note.Verifier, src Source) (audit.Checkpoint, error) {
	c, err := audit.OpenCheckpoint(src.Checkpoint, log.Name(), log)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	if src.First < 0 || src.First%width != 0 || src.First > c.Size {
		return audit.Checkpoint{}, fmt.Errorf("tiles: a segment of a log of %d entries cannot start at entry %d", c.Size, src.First)
	}
	w := &writer{dir: Dir{dir, os.DirFS(dir)}, disk: disk{root: dir, rename: os.Rename}, src: src, checkpoint: c}
	return c, w.write(log)
}

// writer is one run of Write.
type writer struct {
	disk
	dir        Dir
	src        Source
	checkpoint audit.Checkpoint
	old        audit.Checkpoint // what the directory was before; Size is 0 for none
	whole      int64            // files of level 0, and their bundles, that are kept
	tower      tower
	bundle     []byte
}

func (w *writer) write(log note.Verifier) error {
	w.tower.emit = func(t tile, hashes []byte) error { return w.put(t.path(), hashes) }
	if err := w.open(log); err != nil {
		return err
	}
	if err := w.run(); err != nil {
		return err
	}
	return w.finish()
}

// open checks what the directory holds and finds how much of it can stay.
func (w *writer) open(log note.Verifier) error {
	if err := w.mkdir(""); err != nil {
		return err
	}
	old, err := openSegment(w.dir, log)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.checkpoint.Size > w.checkpoint.Size:
		return w.dir.bad(checkpointFile, fmt.Sprintf("covers %d entries, the source only %d", old.checkpoint.Size, w.checkpoint.Size), ErrSource)
	default:
		if err := old.sound(); err != nil {
			return err
		}
		w.old = old.checkpoint
	}
	for w.keeps(w.whole) {
		w.whole++
	}
	return nil
}

// sound checks the files that the checkpoint covers, and not those that an export
// that broke off has added.
func (s *segment) sound() error {
	if err := s.prove(nil); err != nil {
		return err
	}
	for n := range files(s.checkpoint.Size, entriesLevel) {
		if _, _, err := s.entries(n); err != nil {
			return err
		}
	}
	return nil
}

// keeps reports whether a whole file of hashes, and its bundle where it belongs
// to the segment, are there and agree. Whether they are the source's, the root
// tells at the end.
func (w *writer) keeps(n int64) bool {
	if (n+1)*width > w.checkpoint.Size {
		return false
	}
	file, entries := tile{0, n, width}, tile{entriesLevel, n, width}
	hashes, err := w.dir.hashes(file)
	w.keep(file, err)
	if err != nil || n*width < w.src.First {
		return err == nil
	}
	bundle, err := w.dir.bundle(n, width)
	w.keep(entries, err)
	return err == nil && checkBundle(bundle, hashes) < 0
}

// keep has the directory of a file that was read synced before the checkpoint: a
// writer that broke off may have renamed the file and not made its name durable.
func (w *writer) keep(t tile, err error) {
	if err == nil {
		w.touch(path.Dir(t.path()))
	}
}

// run takes the hashes that are kept, then those of earlier segments, then the
// entries.
func (w *writer) run() error {
	kept := w.whole * width
	for h, err := range w.dir.LeafHashes(0, kept) {
		if err := w.leaf(h, err); err != nil {
			return err
		}
	}
	if kept < w.src.First {
		for h, err := range w.src.LeafHashes(kept) {
			if err := w.leaf(h, err); err != nil {
				return err
			}
			if w.tower.edge.Size() == w.src.First {
				break
			}
		}
	}
	for encoding, err := range w.src.Entries(w.tower.edge.Size()) {
		if w.tower.edge.Size() == w.checkpoint.Size {
			break
		}
		if err := w.entry(encoding, err); err != nil {
			return err
		}
	}
	return nil
}

// leaf adds a leaf hash. The old checkpoint's root must come up on the way.
func (w *writer) leaf(h tlog.Hash, err error) error {
	if err == nil {
		err = w.tower.add(h)
	}
	if err != nil {
		return fmt.Errorf("exporting entry %d: %w", w.tower.edge.Size(), err)
	}
	if w.tower.edge.Size() == w.old.Size && w.tower.edge.Root() != w.old.Root {
		return w.dir.bad(checkpointFile, "signs another history than the source", ErrSource)
	}
	return nil
}

// entry adds an entry, and writes the bundle that it completes.
func (w *writer) entry(encoding []byte, err error) error {
	if err == nil {
		w.bundle, err = appendEntry(w.bundle, encoding)
	}
	if err := w.leaf(audit.LeafHash(encoding), err); err != nil {
		return err
	}
	if w.tower.edge.Size()%width == 0 {
		return w.flush()
	}
	return nil
}

func (w *writer) flush() error {
	if len(w.bundle) == 0 {
		return nil
	}
	last := w.tower.edge.Size() - 1
	t := tile{entriesLevel, last / width, int(last%width) + 1}
	err := w.put(t.path(), w.bundle)
	w.bundle = w.bundle[:0]
	return err
}

// finish writes the partial files and then the checkpoint, if the root is the
// one that it signs; then it removes the partial files that the old one needed.
func (w *writer) finish() error {
	if w.tower.edge.Size() != w.checkpoint.Size || w.tower.edge.Root() != w.checkpoint.Root {
		return fmt.Errorf("%w (%d of %d)", ErrSource, w.tower.edge.Size(), w.checkpoint.Size)
	}
	if err := errors.Join(w.flush(), w.tower.finish()); err != nil {
		return err
	}
	// If the process dies before the rename, the old checkpoint and all that it
	// covers are still there; after it, the new one and all that it covers.
	if err := w.sync(); err != nil {
		return err
	}
	if err := w.put(checkpointFile, w.src.Checkpoint); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	return w.clean(w.checkpoint.Size)
}
