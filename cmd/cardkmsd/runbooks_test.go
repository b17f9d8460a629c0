package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cardkms/kms"
)

var runbooksDir = filepath.Join("..", "..", "deploy", "runbooks")

// TestRunbooks: every sealed state has a page, and so has a halt; no other page is there. Each has its
// four parts, and the commands of this program that it names exist. Those of cardkms are
// checked beside that program.
func TestRunbooks(t *testing.T) {
	pages := map[string]string{}
	files, err := filepath.Glob(filepath.Join(runbooksDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pages[strings.TrimSuffix(filepath.Base(f), ".md")] = string(b)
	}
	states := []string{"halted"} // a service that serves officers but no cards is not sealed
	for _, s := range kms.SealedStates() {
		states = append(states, string(s))
	}
	slices.Sort(states)
	if have := slices.Sorted(maps.Keys(pages)); !slices.Equal(have, states) {
		t.Errorf("the pages are %v, the states %v", have, states)
	}
	commands := 0
	for name, text := range pages {
		if !strings.HasPrefix(text, "# "+name+": ") || !strings.Contains(text, `cardkms_sealed{state="`+name+`"}`) {
			t.Errorf("%s.md does not begin with its state, or does not name its metric", name)
		}
		for _, part := range []string{"**You see**", "**It means**", "**Do**", "**Do not**"} {
			if !strings.Contains(text, "\n"+part) {
				t.Errorf("%s.md lacks %s", name, part)
			}
		}
		for line := range strings.Lines(text) {
			args := strings.Fields(line)
			if len(args) == 0 || args[0] != "cardkmsd" || !strings.HasPrefix(line, " ") {
				continue
			}
			commands++
			c, rest, err := rootCommand().Find(args[1:])
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err != nil || !c.Runnable() {
				t.Errorf("%s.md: %s: %v", name, strings.TrimSpace(line), err)
			}
		}
	}
	if commands < 3 {
		t.Errorf("only %d commands were found", commands)
	}
}
