package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/kms/ledger"
)

// TestLagging: a keeper that lacks what is signed is missed when the patience is over.
func TestLagging(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		behind time.Time
		want   bool
	}{
		"it has all":          {time.Time{}, false},
		"behind for a moment": {now.Add(-keeperPatience + time.Second), false},
		"behind for long":     {now.Add(-keeperPatience - time.Second), true},
	} {
		s := ledger.Stats{Kept: map[string]ledger.Kept{"good": {}, "one": {Behind: c.behind}}}
		if got := lagging(s, now, keeperPatience); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestAnchorDirectoryMissing: a disk with the anchor that is not there stops a start, by name.
func TestAnchorDirectoryMissing(t *testing.T) {
	s := newSite(t)
	s.stop()
	if err := os.Rename(filepath.Join(s.dir, "anchor"), filepath.Join(s.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if exitStatus(err) != exitUsage || !strings.Contains(out, "anchors.file: there is no directory") {
		t.Errorf("%d\n%s", exitStatus(err), out)
	}
}
