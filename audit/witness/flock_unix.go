//go:build darwin || freebsd || linux || netbsd || openbsd

package witness

import (
	"os"
	"syscall"
)

// flock takes the lock that the process holds until it ends: two servers on one
// directory could each take a half of two histories for the whole of one.
func flock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return ErrLocked
	}
	return nil
}
