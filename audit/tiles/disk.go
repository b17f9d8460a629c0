package tiles

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"cardkms/audit/durable"
)

// partSuffix ends the name of a file that is being written.
const partSuffix = ".part"

// disk writes the files of one directory.
type disk struct {
	root    string
	changed map[string]bool // directories, below root, to be synced
	rename  func(from, to string) error
}

func (d *disk) file(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// put makes a file's content durable under its name at the next sync, or leaves
// it alone if it has that content; its name may still be that of a writer that
// broke off before its sync. A reader sees all of it or nothing.
func (d *disk) put(name string, content []byte) error {
	if err := d.mkdir(path.Dir(name)); err != nil {
		return err
	}
	if old, err := os.ReadFile(d.file(name)); err == nil && bytes.Equal(old, content) {
		return nil
	}
	part := d.file(name + partSuffix)
	if err := durable.Write(part, content, 0o600); err != nil {
		return err
	}
	return d.rename(part, d.file(name))
}

// mkdir makes a directory and those above it, whose entries for it must become
// durable too.
func (d *disk) mkdir(name string) error {
	if err := os.MkdirAll(d.file(name), 0o750); err != nil {
		return err
	}
	d.touch(name)
	return nil
}

// touch has a directory and those above it synced next.
func (d *disk) touch(name string) {
	if d.changed == nil {
		d.changed = map[string]bool{}
	}
	for name != "." && name != "" && !d.changed[name] {
		d.changed[name] = true
		name = path.Dir(name)
	}
	d.changed["."] = true
}

// sync makes the names durable that put gave.
func (d *disk) sync() error {
	for name := range d.changed {
		if err := durable.SyncDir(d.file(name)); err != nil {
			return err
		}
	}
	d.changed = map[string]bool{}
	return nil
}

// clean removes what a log of this size does not have and a writer left: partial
// files of smaller sizes and files that were being written. Anything else is not
// its own, and is left for Verify to name.
func (d *disk) clean(size int64) error {
	var stale []string
	err := fs.WalkDir(os.DirFS(d.root), tileDir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		t, ok := parsePath(name)
		if strings.HasSuffix(name, partSuffix) || ok && t.width < width && !t.belongsTo(size) {
			stale = append(stale, name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range stale {
		if err := os.Remove(d.file(name)); err != nil {
			return err
		}
		_ = os.Remove(d.file(path.Dir(name))) // the .p directory, once it is empty
	}
	return nil
}
