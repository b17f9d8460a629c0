package audit

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Log is what an auditor checks: a log that somebody else wrote down.
type Log struct {
	Origin string
	// Entries yields the encodings of all entries in order. An error ends the
	// verification and is returned wrapped.
	Entries iter.Seq2[[]byte, error]
	// LeafHashes yields what the log claims to be the leaf hashes; may be nil.
	// Entries alone prove that a log was changed; only with leaf hashes, which
	// the same checkpoint proves, can the changed entry be named.
	LeafHashes iter.Seq2[tlog.Hash, error]
}

// Report says what a verification saw.
type Report struct {
	Checkpoint Checkpoint
	Entries    int64 // entries that were read and are well formed
	First      time.Time
	Last       time.Time
	// ClockSteps counts entries whose time is before that of the entry before
	// them, and FirstClockStep is the sequence of the first one. Clocks are set
	// back, and an entry tells the truth about its clock; so this is reported
	// for the auditor to compare with the operator's records, and is no error.
	ClockSteps     int64
	FirstClockStep int64
}

// Add takes the encoding of the next entry into the report, or returns an error
// that says why it is not the entry with this sequence. Hashes are not its
// business.
func (r *Report) Add(sequence int64, encoding []byte) *EntryError {
	e, err := ParseEntry(encoding)
	switch {
	case err != nil:
		return &EntryError{sequence, "is not the encoding of an entry"}
	case e.Sequence != sequence:
		return &EntryError{sequence, fmt.Sprintf("carries sequence %d", e.Sequence)}
	}
	if r.Entries == 0 {
		r.First = e.Time
	} else if e.Time.Before(r.Last) {
		if r.ClockSteps == 0 {
			r.FirstClockStep = e.Sequence
		}
		r.ClockSteps++
	}
	r.Last = e.Time
	r.Entries++
	return nil
}

// EntryError names the first entry that is not what the checkpoint signed.
type EntryError struct {
	Sequence int64
	Reason   string
}

// Error formats the sequence and the reason.
func (e *EntryError) Error() string { return fmt.Sprintf("audit: entry %d: %s", e.Sequence, e.Reason) }

// ErrRoot: the entries are well formed and without gaps, but they are not those
// that the checkpoint signed; which one was changed cannot be told without
// leaf hashes that the checkpoint proves.
var ErrRoot = errors.New("audit: the entries are not those that the checkpoint signed")

// VerifyLog checks that the entries of a log are exactly those that the
// checkpoint signed: its signature, every encoding, the sequence from 0 without
// gaps, the number of entries and the root. It holds one edge of the tree, not
// the log, in memory. The report is filled as far as the verification came.
func VerifyLog(checkpoint []byte, v note.Verifier, log Log) (Report, error) {
	c, err := OpenCheckpoint(checkpoint, log.Origin, v)
	if err != nil {
		return Report{}, err
	}
	w := walk{report: Report{Checkpoint: c}, firstDiffers: -1}
	if log.LeafHashes != nil {
		next, stop := iter.Pull2(log.LeafHashes)
		defer stop()
		w.claims = next
	}
	if err := w.entries(log.Entries); err != nil {
		return w.report, err
	}
	return w.report, w.compare()
}

// walk is one pass over a log.
type walk struct {
	report       Report
	edge         Edge // of the entries
	claims       func() (tlog.Hash, error, bool)
	claimed      Edge  // of the claimed leaf hashes
	firstDiffers int64 // first entry whose hash is not the claimed one, or -1
	malformed    *EntryError
	surplus      bool // there are more entries than the checkpoint covers
}

// entries streams the log. A malformed entry does not end the pass while there
// are claimed hashes, for an earlier entry may turn out to be the first bad one.
func (w *walk) entries(entries iter.Seq2[[]byte, error]) error {
	for encoding, err := range entries {
		seq := w.edge.Size()
		if err != nil {
			return fmt.Errorf("reading entry %d: %w", seq, err)
		}
		if seq == w.report.Checkpoint.Size {
			w.surplus = true
			break
		}
		if err := w.entry(seq, encoding); err != nil {
			return err
		}
	}
	return w.restOfClaims()
}

// restOfClaims takes the claims for entries that are missing, so that the claims
// can be proven and name the entry that was removed.
func (w *walk) restOfClaims() error {
	for w.claims != nil && w.claimed.Size() < w.report.Checkpoint.Size {
		claimed, err, ok := w.claims()
		if err != nil {
			return fmt.Errorf("reading leaf hash %d: %w", w.claimed.Size(), err)
		}
		if !ok {
			break
		}
		w.claimed.Append(claimed)
	}
	return nil
}

func (w *walk) entry(seq int64, encoding []byte) error {
	h := LeafHash(encoding)
	w.edge.Append(h)
	if err := w.claim(seq, h); err != nil {
		return err
	}
	if w.malformed == nil {
		w.malformed = w.report.Add(seq, encoding)
	}
	if w.malformed != nil && w.claims == nil {
		return w.malformed
	}
	return nil
}

// claim takes the next claimed leaf hash and compares.
func (w *walk) claim(seq int64, h tlog.Hash) error {
	if w.claims == nil {
		return nil
	}
	claimed, err, ok := w.claims()
	if err != nil {
		return fmt.Errorf("reading leaf hash %d: %w", seq, err)
	}
	if !ok {
		w.claims = nil // too few claims are worth as much as none
		return nil
	}
	w.claimed.Append(claimed)
	if claimed != h && w.firstDiffers < 0 {
		w.firstDiffers = seq
	}
	return nil
}

// compare decides at the end of the pass. Where the claimed hashes are proven by
// the checkpoint, the first entry that differs from its claim is the first bad
// one; where they are not, the claims are worth nothing.
func (w *walk) compare() error {
	c := w.report.Checkpoint
	proven := w.claims != nil && w.claimed.Size() == c.Size && w.claimed.Root() == c.Root
	switch {
	case proven && w.firstDiffers >= 0:
		return &EntryError{w.firstDiffers, "is not the entry that the checkpoint signed"}
	case w.malformed != nil:
		return w.malformed
	case w.surplus:
		return &EntryError{c.Size, "is not covered by the checkpoint"}
	case w.edge.Size() != c.Size:
		return &EntryError{w.edge.Size(), fmt.Sprintf("is missing; the checkpoint covers %d entries", c.Size)}
	case w.edge.Root() != c.Root:
		return ErrRoot
	case w.firstDiffers >= 0:
		return &EntryError{w.firstDiffers, "is the one that the checkpoint signed, but its stored leaf hash is not"}
	}
	return nil
}
