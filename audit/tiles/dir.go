package tiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Dir is a directory that holds a log, or a segment of it.
type Dir struct {
	Name string // for errors; not opened
	FS   fs.FS
}

// FileError names a file that is not what the checkpoint signed.
type FileError struct {
	Path   string // the directory's name and the path below it
	Reason string
	Err    error // may be nil
}

// Error formats the path and the reason.
func (e *FileError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Path, e.Reason, e.Err)
	}
	return e.Path + ": " + e.Reason
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// bad names one file of the directory.
func (d Dir) bad(path, reason string, err error) *FileError {
	if d.Name != "" {
		path = d.Name + "/" + path
	}
	return &FileError{path, reason, err}
}

const reasonMissing = "is missing"

// read returns a file of at most max bytes. What is no file of that size is a
// *FileError; where the file does not exist it wraps fs.ErrNotExist.
func (d Dir) read(path string, max int64) ([]byte, error) {
	f, err := d.FS.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, d.bad(path, reasonMissing, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > max {
		return nil, d.bad(path, "is no file or is too long", nil)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return b, nil
}

// hashes returns the hashes of a tile of the given width.
func (d Dir) hashes(t tile) ([]byte, error) {
	b, err := d.read(t.path(), width*tlog.HashSize)
	if err == nil && len(b) != t.width*tlog.HashSize {
		return nil, d.bad(t.path(), fmt.Sprintf("has %d bytes and not %d", len(b), t.width*tlog.HashSize), nil)
	}
	return b, err
}

func (d Dir) bundle(n int64, width int) ([]byte, error) {
	return d.read(tile{entriesLevel, n, width}.path(), bundleBytesMax)
}

// Checkpoint returns the directory's checkpoint, signed by the log with this key,
// and its signed note. Without one the export broke off; the error wraps
// fs.ErrNotExist.
func (d Dir) Checkpoint(log note.Verifier) (audit.Checkpoint, []byte, error) {
	b, err := d.read(checkpointFile, audit.CheckpointBytesMax)
	if err != nil {
		return audit.Checkpoint{}, nil, err
	}
	c, err := audit.OpenCheckpoint(b, log.Name(), log)
	if err != nil {
		return audit.Checkpoint{}, nil, d.bad(checkpointFile, "does not verify", err)
	}
	return c, b, nil
}

// LeafHashes yields the leaf hashes [from, to) of a log of that size or a
// multiple of 256 below it.
func (d Dir) LeafHashes(from, to int64) iter.Seq2[tlog.Hash, error] {
	return func(yield func(tlog.Hash, error) bool) {
		for n := from / width; n < files(to, 0); n++ {
			hashes, err := d.hashes(tile{0, n, widthIn(to, 0, n)})
			if err != nil {
				yield(tlog.Hash{}, err)
				return
			}
			for seq := max(from, n*width); seq < min(to, (n+1)*width); seq++ {
				if !yield(hashAt(hashes, int(seq%width)), nil) {
					return
				}
			}
		}
	}
}
