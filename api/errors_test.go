package api_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"cardkms/api"
)

var update = flag.Bool("update", false, "write ERRORS.md")

// TestErrorsPage: ERRORS.md lists every code, as the program has it.
func TestErrorsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Codes of refusals\n\nEvery refusal is `application/problem+json` (RFC 9457) with one of these codes, which never change their meaning.\n" +
		"They are also the outcomes in the audit log. \"Again\" says that the same request may succeed a moment later; Retry-After says when.\n" +
		"Written by `go test ./api -update`.\n\n| code | status | again | what it says |\n|---|---|---|---|\n")
	for _, c := range api.Codes() {
		again := ""
		if c.Temporary() {
			again = "yes"
		}
		fmt.Fprintf(&page, "| `%s` | %d | %s | %s |\n", c, c.Status(), again, c.Title())
	}
	if *update {
		if err := os.WriteFile("ERRORS.md", []byte(page.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("ERRORS.md")
	if err != nil || string(have) != page.String() {
		t.Errorf("ERRORS.md is not what the program says: run go test ./api -update (%v)", err)
	}
}
