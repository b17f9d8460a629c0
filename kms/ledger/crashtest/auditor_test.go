package crashtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
	_ "modernc.org/sqlite" // the auditor reads with plain SQL
)

// promises is what children said that must hold from then on.
type promises struct {
	acked      map[string]int64 // name to sequence
	failed     map[string]bool
	checkpoint int64 // size of the newest stored checkpoint
	anchored   int64 // size of the newest one in the anchor
	errors     []string
	done       bool
}

func newPromises() *promises { return &promises{acked: map[string]int64{}, failed: map[string]bool{}} }

// read takes what a child printed. A line that was cut is no promise.
func (p *promises) read(output []byte) error {
	for line := range bytes.Lines(output) {
		if bytes.HasSuffix(line, []byte("\n")) {
			if err := p.line(strings.TrimSuffix(string(line), "\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *promises) line(line string) error {
	f := strings.Fields(line)
	switch {
	case strings.HasPrefix(line, "error "):
		p.errors = append(p.errors, line)
	case line == "done":
		p.done = true
	case len(f) == 3 && f[0] == "ack":
		seq, err := strconv.ParseInt(f[1], 10, 64)
		p.acked[f[2]] = seq
		return err
	case len(f) == 2 && f[0] == "failed":
		p.failed[f[1]] = true
	case len(f) == 2 && f[0] == "checkpoint":
		return atLeast(&p.checkpoint, f[1])
	case len(f) == 2 && f[0] == "anchored":
		return errors.Join(atLeast(&p.checkpoint, f[1]), atLeast(&p.anchored, f[1]))
	case line == "ready", len(f) == 2 && f[0] == "unknown":
	default:
		return fmt.Errorf("the child printed %q", line)
	}
	return nil
}

func atLeast(size *int64, text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	*size = max(*size, n)
	return err
}

// evidence is all that is in a data directory.
type evidence struct {
	leaves     [][]byte
	hashes     []tlog.Hash // of the leaves, as stored
	entries    []audit.Entry
	cards      map[string]card
	checkpoint []byte // nil if there is none
	anchor     []byte // nil if there is none
}

type card struct {
	version int64
	body    string
}

// collect reads a copy of a data directory, for SQLite cannot look at a WAL
// without writing.
func collect(dir string) (e *evidence, err error) {
	scratch, err := os.MkdirTemp(filepath.Dir(dir), "copy-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := os.CopyFS(scratch, os.DirFS(dir)); err != nil {
		return nil, err
	}
	e = &evidence{cards: map[string]card{}}
	if e.anchor, err = os.ReadFile(filepath.Join(scratch, anchorName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := filepath.Join(scratch, databaseName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return e, nil // the process had not begun
	}
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return e, e.read(db)
}

func (e *evidence) read(db *sql.DB) error {
	var verdict string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		return fmt.Errorf("SQLite finds its file damaged: %s, %v", verdict, err)
	}
	var tables int
	if err := db.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name IN ('log_leaves', 'state_rows')`).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return nil // the process died before it made the schema
	}
	if err := e.readLeaves(db); err != nil {
		return err
	}
	return e.readRows(db)
}

func (e *evidence) readLeaves(db *sql.DB) (err error) {
	rows, err := db.QueryContext(context.Background(), `SELECT seq, leaf, hashes FROM log_leaves ORDER BY seq`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var seq int64
		var leaf, hashes []byte
		if err := rows.Scan(&seq, &leaf, &hashes); err != nil {
			return err
		}
		if seq != int64(len(e.leaves)) || len(hashes) < tlog.HashSize {
			return fmt.Errorf("leaf %d stands where leaf %d belongs, with %d bytes of hashes", seq, len(e.leaves), len(hashes))
		}
		entry, err := audit.ParseEntry(leaf)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", seq, err)
		}
		e.leaves, e.entries = append(e.leaves, leaf), append(e.entries, entry)
		e.hashes = append(e.hashes, tlog.Hash(hashes[:tlog.HashSize]))
	}
	return rows.Err()
}

func (e *evidence) readRows(db *sql.DB) (err error) {
	rows, err := db.QueryContext(context.Background(), `SELECT kind, id, version, body FROM state_rows`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var kind, id string
		var version int64
		var body []byte
		if err := rows.Scan(&kind, &id, &version, &body); err != nil {
			return err
		}
		switch {
		case kind == "card":
			e.cards[id] = card{version, string(body)}
		case kind == "log" && id == "checkpoint":
			e.checkpoint = body
		}
	}
	return rows.Err()
}

// check returns what does not hold.
func (e *evidence) check(p *promises) error {
	return errors.Join(
		e.checkEntries(p), e.checkCards(),
		e.checkNote("the stored checkpoint", e.checkpoint, p.checkpoint),
		e.checkNote("the anchor's checkpoint", e.anchor, p.anchored),
	)
}

// checkEntries: what was acknowledged is there, once, at its place; what was said
// to have failed is not there.
func (e *evidence) checkEntries(p *promises) error {
	var errs []error
	at := map[string][]int64{}
	for _, entry := range e.entries {
		if entry.Outcome != audit.OutcomeUnknown { // such an entry repeats what its intent says
			at[entry.Request] = append(at[entry.Request], entry.Sequence)
		}
	}
	for name, seq := range p.acked {
		if got := at[name]; !slices.Equal(got, []int64{seq}) {
			errs = append(errs, fmt.Errorf("entry %s was acknowledged at %d and stands at %v", name, seq, got))
		}
	}
	for name, got := range at {
		if p.failed[name] {
			errs = append(errs, fmt.Errorf("entry %s was said to have failed and stands at %v", name, got))
		}
		if len(got) != 1 {
			errs = append(errs, fmt.Errorf("entry %s stands at %v", name, got))
		}
	}
	return errors.Join(errs...)
}

// checkCards: the rows are those of which the entries tell, no more, no fewer.
func (e *evidence) checkCards() error {
	var errs []error
	want := map[string]card{}
	for _, entry := range e.entries {
		text, changes := entry.Detail["version"]
		if !changes || entry.Outcome == audit.OutcomeUnknown {
			continue
		}
		version, err := strconv.ParseInt(text, 10, 64)
		id := strings.TrimPrefix(entry.Object, "cards/")
		if err != nil || version != want[id].version+1 {
			errs = append(errs, fmt.Errorf("entry %d tells of version %s of card %s after version %d", entry.Sequence, text, id, want[id].version))
		}
		want[id] = card{version, entry.Request}
	}
	for id, c := range want {
		if e.cards[id] != c {
			errs = append(errs, fmt.Errorf("the entries tell of card %s %+v, and its row is %+v", id, c, e.cards[id]))
		}
	}
	for id, c := range e.cards {
		if _, ok := want[id]; !ok {
			errs = append(errs, fmt.Errorf("no entry tells of card %s %+v", id, c))
		}
	}
	return errors.Join(errs...)
}

// checkNote: a checkpoint of at least this size, and the log starts with exactly
// what it signs.
func (e *evidence) checkNote(what string, note []byte, size int64) error {
	if note == nil {
		if size > 0 {
			return fmt.Errorf("%s of %d entries is gone", what, size)
		}
		return nil
	}
	_, verifier := keys()
	c, err := audit.OpenCheckpoint(note, origin, verifier)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if c.Size < size || c.Size > int64(len(e.leaves)) {
		return fmt.Errorf("%s covers %d entries; there was one of %d, and the log has %d", what, c.Size, size, len(e.leaves))
	}
	report, err := audit.VerifyLog(note, verifier, audit.Log{
		Origin:     origin,
		Entries:    each(e.leaves[:c.Size]),
		LeafHashes: each(e.hashes[:c.Size]),
	})
	if err != nil || report.Entries != c.Size {
		return fmt.Errorf("%s: %d entries verify, then: %v", what, report.Entries, err)
	}
	return nil
}

func each[T any](all []T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// checkIntents: after a start no intent is open, and each was closed once.
func (e *evidence) checkIntents() error {
	var errs []error
	closed := map[int64]int{}
	for _, entry := range e.entries {
		if entry.Intent != nil {
			closed[*entry.Intent]++
		}
	}
	for _, entry := range e.entries {
		if entry.Outcome == audit.OutcomePending && closed[entry.Sequence] != 1 {
			errs = append(errs, fmt.Errorf("the intent %d was closed %d times", entry.Sequence, closed[entry.Sequence]))
		}
	}
	return errors.Join(errs...)
}

// examine is all that must hold after a fault: what was promised, a start without
// help, and what that start promises.
func examine(dir string, p *promises, probe string) error {
	e, err := collect(dir)
	if err != nil {
		return fmt.Errorf("reading the database after the fault: %w", err)
	}
	if err := e.check(p); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	if err := restart(dir, p, probe); err != nil {
		return fmt.Errorf("starting again: %w", err)
	}
	if e, err = collect(dir); err != nil {
		return fmt.Errorf("reading the database after the start: %w", err)
	}
	if err := errors.Join(e.check(p), e.checkIntents()); err != nil {
		return fmt.Errorf("after the start: %w", err)
	}
	return nil
}

// restart opens the ledger, writes one entry and closes.
func restart(dir string, p *promises, probe string) error {
	s, err := open(dir, nil)
	if err != nil {
		return err
	}
	if v := s.Violations(); len(v) > 0 {
		return errors.Join(fmt.Errorf("the ledger finds %v", v), s.close())
	}
	seq, err := s.Do(context.Background(), row(probe, "probe"))
	if err == nil {
		p.acked[probe] = seq
	}
	return errors.Join(err, s.close())
}
