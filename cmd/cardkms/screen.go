package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// screen returns text as a terminal may have it: what could move the cursor, or
// turn the order of a line round, becomes an escape. Lines stay lines.
func screen(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// plain returns a word of the service for use within a line: quoted unless it is
// visible ASCII, so that it cannot pass for another line or column.
func plain(word string) string {
	for _, r := range word {
		if r <= ' ' || r > '~' {
			return strconv.QuoteToASCII(word)
		}
	}
	return word
}

var isKDD = regexp.MustCompile(`^[0-9A-Fa-f]{20}$`).MatchString

// quoted is a word of a command that a person may paste into a shell: the service's
// words become one argument there, whatever they are.
func quoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(plain(s), "'", `'\''`) + "'"
}

// columns returns rows as lines, what stands in the same place below each other.
func columns(rows [][]string) []string {
	if len(rows) == 0 {
		return nil
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // a Builder takes all
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// count says how many there are of something.
func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// spoken returns the service's word for a card: key diversification data, or
// whatever it is in quotes.
func spoken(subject string) string {
	if isKDD(subject) {
		return subject
	}
	return strconv.QuoteToASCII(subject)
}
