package approval

import (
	"regexp"
	"strings"
)

// The alphabets are closed and within those of the audit log, so that a proposal
// can stand in an entry and looks the same to every reader. A regular expression
// of Go is linear in its input.
var (
	validID        = regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString
	validIssuer    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`).MatchString
	validOfficer   = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,62}$`).MatchString
	validWords     = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)*$`).MatchString
	validSegments  = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`).MatchString
	validKey       = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`).MatchString
	validValue     = regexp.MustCompile(`^[A-Za-z0-9._:/+-]{1,256}$`).MatchString
	validIdentity  = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,63}(/[A-Za-z0-9._-]+)*/role/security-officer(/[A-Za-z0-9._-]+)*$`).MatchString
	operationBytes = 64
	objectBytes    = 256
)

func validOperation(s string) bool { return len(s) <= operationBytes && validWords(s) }

// validObject refuses "." and "..", which mean another object to some readers.
func validObject(s string) bool {
	if len(s) > objectBytes || !validSegments(s) || s == none {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return true
}
