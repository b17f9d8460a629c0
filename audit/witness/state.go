package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cardkms/audit"
	"cardkms/audit/durable"
)

// A state directory has a file for each log, named by the SHA-256 of its origin
// in hexadecimal, that holds the last cosigned checkpoint; and a lock.

const (
	lockName   = "lock"
	partSuffix = ".part"
)

// ErrLocked: another process serves this directory.
var ErrLocked = errors.New("witness: another process has locked the directory")

// ErrState: a file of the directory is not what a Server wrote.
var ErrState = errors.New("witness: the remembered checkpoint is damaged")

// Memory is where a witness keeps the last checkpoint that it cosigned of each log. Of two
// witnesses with one memory, the second to remember what follows the same checkpoint must
// get an error.
type Memory interface {
	// Last returns the signed note of the last cosigned checkpoint, nil for none.
	Last(origin string) ([]byte, error)
	// Remember replaces what Last returned. When it returns nil the new one is durable;
	// when it returns an error either may be.
	Remember(origin string, msg []byte) error
	Close() error
}

// state is the Memory in a directory.
type state struct {
	dir    string
	lock   *os.File
	rename func(from, to string) error
}

func openState(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	// A directory that a power cut takes away would be a witness that knows nothing.
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	l, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &state{dir, l, os.Rename}, nil
}

// Close gives the directory back.
func (s *state) Close() error { return s.lock.Close() }

func fileOf(dir, origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(dir, hex.EncodeToString(sum[:]))
}

// Last returns the signed note of the last cosigned checkpoint, nil for none.
func (s *state) Last(origin string) ([]byte, error) {
	b, err := os.ReadFile(fileOf(s.dir, origin))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Remember replaces the last cosigned checkpoint. When it returns nil the new one
// is durable; when it returns an error the old one may be the durable one, and
// the cosignature must not leave the process. If the process dies before the
// rename, the old one is there; after it, the new one, which no answer carried.
func (s *state) Remember(origin string, msg []byte) error {
	path := fileOf(s.dir, origin)
	if err := durable.Write(path+partSuffix, msg, 0o600); err != nil {
		return err
	}
	if err := s.rename(path+partSuffix, path); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// Remembered returns the signed notes that a directory holds: the last checkpoint
// that the witness cosigned of each log. It does not verify them.
func Remembered(dir string) ([][]byte, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var notes [][]byte
	for _, e := range list {
		if e.Name() == lockName || strings.HasSuffix(e.Name(), partSuffix) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		text, _, _ := strings.Cut(string(b), "\n\n")
		c, err := audit.ParseCheckpoint(text + "\n")
		if err != nil || fileOf(dir, c.Origin) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("%w: %s", ErrState, e.Name())
		}
		notes = append(notes, b)
	}
	return notes, nil
}

// Forget makes the witness take the next checkpoint of a log for its first. It is
// for a log that was restored from a backup, by the decision of people who know
// why it became shorter. It is refused while a Server has the directory.
func Forget(dir, origin string) error {
	s, err := openState(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := os.Remove(fileOf(dir, origin)); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}
