// Package durable writes files that are there after a power cut. The log's anchors,
// exported directories, witnesses and key ceremonies keep what they must not lose in
// plain files; this is the one way in which they do.
//
// It promises that a file which Replace wrote is, after a crash at any moment, the old
// one or the new one, whole; and the new one once Replace has returned nil. It leaves
// out locks: a path has one writer at a time.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// newSuffix names what is written before it takes the place of a file. One name, for
// there is one writer: what a process left that died is overwritten by the next.
const newSuffix = ".new"

// Replace makes a file hold this content, with this mode.
func Replace(path string, content []byte, mode fs.FileMode) error {
	part := path + newSuffix
	err := Write(part, content, mode)
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		_ = os.Remove(part)
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Write writes a file and makes its content durable; its name is after SyncDir.
func Write(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Sync())
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
