package main

import (
	"strings"
	"testing"
)

// TestUsage: a wrong command line has the status that the help names, and says what the
// right one is.
func TestUsage(t *testing.T) {
	s := &site{t: t}
	for line, want := range map[string]string{
		"bogus":                          `unknown command "bogus" for "cardkmsd"`,
		"srve":                           "\tserve\n",
		"srve --config x":                "\tserve\n",
		"ceremony rnu":                   "\trun\n",
		"ceremony rnu --yes":             "\trun\n",
		"ceremony --yes":                 "unknown flag: --yes",
		"serve --yes":                    "unknown flag: --yes",
		"serve now":                      "usage: cardkmsd serve [flags]",
		"restore":                        "usage: cardkmsd restore FILE [DIR...]",
		"ceremony run":                   "usage: cardkmsd ceremony run FILE",
		"pseudonym new":                  `required flag(s) "label"`,
		"probe --config x --module y":    "none of the others can be",
		"probe --label foo":              "name a token of --module",
		"probe --config x --pin env:PIN": "name a token of --module",
		"probe file.json":                "files are given with --vectors",
	} {
		out, err := s.cardkmsd("", strings.Fields(line)...)
		if exitStatus(err) != exitUsage || !strings.Contains(out, want) {
			t.Errorf("cardkmsd %s: %v, want %d and %q:\n%s", line, err, exitUsage, want, out)
		}
	}
}
