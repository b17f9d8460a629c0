package audit

import "strings"

// The alphabets are closed and ASCII only, so that an entry looks the same to
// every reader and every tool: no line break, no look-alike, no empty value, no
// value "-". Lengths are bounded so that an entry is.

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// set is a set of ASCII characters.
type set [128]bool

func setOf(chars ...string) *set {
	var s set
	for _, c := range strings.Join(chars, "") {
		s[c] = true
	}
	return &s
}

var (
	setLetter  = setOf(lower)
	setCode    = setOf(lower, digits, "_")
	setName    = setOf(lower, digits, "-")
	setDomain  = setOf(lower, digits, ".-_")
	setSegment = setOf(lower, upper, digits, ".-_")
	setValue   = setOf(lower, upper, digits, ".-_:/+")
	setAddress = setOf(digits, "abcdef.:")
	setHex     = setOf(digits, "abcdef")
)

// only reports whether s has 1 to max characters, all of them in the set.
func (a *set) only(s string, max int) bool {
	if s == "" || len(s) > max {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] >= 128 || !a[s[i]] {
			return false
		}
	}
	return true
}

func startsWithLetter(s string) bool { return setLetter.only(s[:min(1, len(s))], 1) }

func validCode(s string) bool { return setCode.only(s, 64) && startsWithLetter(s) }

func validName(s string) bool { return setName.only(s, 63) && startsWithLetter(s) }

func validRequest(s string) bool { return setSegment.only(s, 128) && s != "-" }

func validDetailValue(s string) bool { return setValue.only(s, 256) }

func validCard(s string) bool { return setHex.only(s, 128) && len(s)%2 == 0 }

// validActor accepts the two reserved words and SPIFFE URIs. The SPIFFE standard
// bounds the URI at 2048 bytes and the trust domain at 255, and forbids the path
// segments "." and "..".
func validActor(s string) bool {
	if s == ActorService || s == ActorAnonymous {
		return true
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > 2048 {
		return false
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	return setDomain.only(domain, 255) && (!hasPath || validPath(path, 2048))
}

// validOrigin bounds an address by the longest text of an IPv6 address with an
// embedded IPv4 address, 45 characters.
func validOrigin(s string) bool { return s == OriginConsole || setAddress.only(s, 45) }

func validOperation(s string) bool {
	if len(s) > 64 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !validName(part) {
			return false
		}
	}
	return true
}

func validResource(s string) bool { return s != "-" && validPath(s, 512) }

// validPath accepts segments joined by slashes, none of them empty, "." or "..".
func validPath(s string, max int) bool {
	if len(s) > max {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if !setSegment.only(part, max) || part == "." || part == ".." {
			return false
		}
	}
	return true
}
