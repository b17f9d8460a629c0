//go:build !(darwin || freebsd || linux || netbsd || openbsd)

package witness

import (
	"errors"
	"os"
)

// flock refuses: without a lock nothing keeps a second server away.
func flock(*os.File) error {
	return errors.New("witness: this system has no lock that a witness could rely on")
}
