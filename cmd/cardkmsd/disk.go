package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cardkms/kms/ledger"
)

// reserveBytes is room for the few entries that are written when the disk is
// full, with what the database needs to write them.
const reserveBytes = 8 << 20

// disk is the data directory's file system, with a file in it that takes room.
type disk struct{ dir string }

// disk returns the disk that the database is on, nil if that is on another machine.
func (c *config) disk() ledger.Disk {
	if c.Database.URL != "" {
		return nil
	}
	return disk{c.path(c.Data)}
}

func (d disk) reserve() string { return filepath.Join(d.dir, "reserve") }

// Used returns how much of the file system is used, in percent of what this
// process may use.
func (d disk) Used() (int, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		return 0, fmt.Errorf("looking at the disk of %s: %w", d.dir, err)
	}
	used := s.Blocks - s.Bfree
	if used+s.Bavail == 0 {
		return 100, nil
	}
	return int(100 * used / (used + s.Bavail)), nil
}

// Reserve takes the room. The blocks are written, not only promised: a sparse file
// takes none.
func (d disk) Reserve() error {
	if _, err := os.Stat(d.reserve()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(d.reserve(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(make([]byte, reserveBytes))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(d.reserve()))
	}
	return nil
}

// Release gives the room back.
func (d disk) Release() error {
	if err := os.Remove(d.reserve()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
