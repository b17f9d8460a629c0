package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File keeps a checkpoint in a file of the host, for whoever does not trust the
// host of the database. The directory must exist.
type File struct{ Path string }

// Newest implements Keeper.
func (f File) Newest(context.Context) ([][]byte, error) {
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return [][]byte{b}, nil
}

// Keep implements Keeper: a new file, then its name, each made durable, so that
// whenever the process dies one whole checkpoint is there.
func (f File) Keep(_ context.Context, checkpoint []byte) (err error) {
	dir := filepath.Dir(f.Path)
	// One name, for there is one writer: what a process left that died here is
	// overwritten by the next.
	tmp, err := os.OpenFile(f.Path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("writing the file %s: %w", f.Path, err)
		}
	}()
	_, werr := tmp.Write(checkpoint)
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), f.Path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
