// Package version says what a program was built from.
//
// The linker is told a number by whoever builds: the Makefile passes git's description
// of the source, or the version of a package. Without one the revision that the go command
// stamps has to do, which "go run" and a build outside a repository do not have.
package version

import "runtime/debug"

// number is set by -ldflags '-X cardkms/deploy/version.number=NUMBER'.
var number string

const unknown = "unknown"

// String returns the number, else the revision.
func String() string {
	if number != "" {
		return number
	}
	return Revision()
}

// Revision returns the revision of the source, else the number.
func Revision() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	if number != "" {
		return number
	}
	return unknown
}
