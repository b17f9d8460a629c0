package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/kms/ledger"
)

// TestLagging: a keeper that is behind is missed after a minute, from the start of the
// process on if it never had a checkpoint.
func TestLagging(t *testing.T) {
	started := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	now := started.Add(time.Hour)
	long, short := now.Add(-keeperPatience-time.Second), now.Add(-keeperPatience+time.Second)
	for name, c := range map[string]struct {
		kept    ledger.Kept
		started time.Time
		want    bool
	}{
		"it has all":           {ledger.Kept{Size: 9, At: long}, started, false},
		"behind for long":      {ledger.Kept{Size: 8, At: long}, started, true},
		"behind for a moment":  {ledger.Kept{Size: 8, At: short}, started, false},
		"never had one":        {ledger.Kept{}, started, true},
		"the process is young": {ledger.Kept{}, short, false},
	} {
		s := ledger.Stats{Signed: ledger.Kept{Size: 9, At: now}, Kept: map[string]ledger.Kept{"good": {Size: 9, At: long}, "one": c.kept}}
		if got := lagging(s, now, c.started); got != c.want {
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
