package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunbooks: the commands of this program that pages of deploy/runbooks name exist,
// with their flags and as many arguments. ID stands for that of a proposal.
func TestRunbooks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "runbooks", "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d pages, %v", len(files), err)
	}
	commands := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			args := strings.Fields(strings.ReplaceAll(line, " ID", " "+strings.Repeat("a1", 16)))
			if len(args) == 0 || args[0] != "cardkms" || !strings.HasPrefix(line, " ") {
				continue
			}
			commands++
			a := &app{out: io.Discard}
			c, rest, err := a.root().Find(args[1:])
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err != nil || !c.Runnable() {
				t.Errorf("%s: %s: %v", filepath.Base(f), strings.TrimSpace(line), err)
			}
		}
	}
	if commands < 3 {
		t.Errorf("only %d commands were found", commands)
	}
}
