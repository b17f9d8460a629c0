package tiles

import (
	"errors"
	"slices"
	"time"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
)

// Policy says whom the auditor trusts and what is to be checked.
type Policy struct {
	// Log is the log's key; its name is the log's origin.
	Log note.Verifier
	// Witnesses must have cosigned the newest checkpoint, each of them.
	Witnesses []note.Verifier
	// From is the first entry that must be there. Entries before it are not read;
	// their hashes are proven.
	From int64
	// Each is called with every entry from From on, in order, after all hashes were
	// proven; may be nil. The encoding is valid until it returns.
	Each func(encoding []byte)
}

// Report says what a verification saw. Entries counts from From on.
type Report struct {
	audit.Report
	From     int64
	Cosigned []time.Time // by each witness of the policy
}

// Verify checks that the directories hold the log that its key signed: every
// signature, every hash, every entry from the first to the last without a gap.
// Several directories are segments of one log, in any order.
//
// The error is a *FileError for a file that is not what the checkpoint signed; it
// wraps an *audit.EntryError that names the first changed entry. A missing entry
// is an *audit.EntryError. Other errors are those of reading.
func Verify(p Policy, dirs ...Dir) (Report, error) {
	s, err := openSet(p, dirs)
	if err != nil {
		return Report{}, err
	}
	report := Report{Report: audit.Report{Checkpoint: s.newest().checkpoint}, From: p.From}
	if report.Cosigned, err = s.cosigned(p.Witnesses); err != nil {
		return report, err
	}
	if err := s.prove(); err != nil {
		return report, err
	}
	// All hashes first, then all meanings: the first changed entry is named before
	// anything is parsed that the log did not sign.
	if err := s.walk(p, nil); err != nil {
		return report, err
	}
	return report, s.walk(p, &report.Report)
}

// set is the segments of one log in ascending size.
type set []*segment

func openSet(p Policy, dirs []Dir) (set, error) {
	if len(dirs) == 0 || p.Log == nil || p.From < 0 {
		return nil, errors.New("tiles: nothing to verify, or no key to verify it with")
	}
	var s set
	for _, d := range dirs {
		one, err := openSegment(d, p.Log)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	}
	slices.SortStableFunc(s, func(a, b *segment) int { return int(min(1, max(-1, a.checkpoint.Size-b.checkpoint.Size))) })
	if p.From > s.newest().checkpoint.Size {
		return nil, errors.New("tiles: the log ends before the first entry to verify")
	}
	return s, nil
}

func (s set) newest() *segment { return s[len(s)-1] }

func (s set) cosigned(witnesses []note.Verifier) ([]time.Time, error) {
	var times []time.Time
	for _, w := range witnesses {
		at, err := audit.CosignatureTime(s.newest().note, w)
		if err != nil {
			return nil, s.newest().bad(checkpointFile, "does not verify", err)
		}
		times = append(times, at)
	}
	return times, nil
}

func (s set) prove() error {
	for i, one := range s {
		if err := one.inventory(); err != nil {
			return err
		}
		var older []*segment
		if one == s.newest() {
			older = s[:i]
		}
		if err := one.prove(older); err != nil {
			return err
		}
	}
	return nil
}

// walk checks the bundles of all segments against their hashes, and takes each
// entry into the report, if there is one.
func (s set) walk(p Policy, report *audit.Report) error {
	from, size := p.From, s.newest().checkpoint.Size
	for n := from / width; n < files(size, entriesLevel); n++ {
		bundle, count, err := s.bundle(n)
		if err != nil {
			return err
		}
		if missing := max(from, n*width+int64(count)); missing < min(size, (n+1)*width) {
			return &audit.EntryError{Sequence: missing, Reason: reasonMissing}
		}
		if report == nil {
			continue
		}
		for seq := n * width; len(bundle) > 0; seq++ {
			encoding, rest, err := cutEntry(bundle)
			if err != nil {
				return err
			}
			bundle = rest
			if seq < from {
				continue
			}
			if bad := report.Add(seq, encoding); bad != nil {
				return bad
			}
			if p.Each != nil {
				p.Each(encoding)
			}
		}
	}
	return nil
}

// bundle checks every segment's copy of a bundle and returns the longest.
func (s set) bundle(n int64) (longest []byte, count int, err error) {
	for _, one := range s {
		b, c, err := one.entries(n)
		if err != nil {
			return nil, 0, err
		}
		if c > count {
			longest, count = b, c
		}
	}
	return longest, count, nil
}
