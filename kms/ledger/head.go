package ledger

import (
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/audit/statemap"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/tlog"
)

// Rows that vouch for themselves and are not in the state map.
const (
	kindLog      store.Kind = "log"       // head and checkpoints
	kindStateMap store.Kind = "state-map" // buckets of the state map
)

// The rows of kindLog.
var (
	headRef = store.Ref{Kind: kindLog, ID: "head"}
	// CheckpointRef names the row that holds the newest signed checkpoint.
	CheckpointRef = store.Ref{Kind: kindLog, ID: "checkpoint"}
	// cosignedRef names the row that holds the newest checkpoint with the
	// cosignatures of witnesses.
	cosignedRef = store.Ref{Kind: kindLog, ID: "cosigned"}
)

func bucketRef(n int) store.Ref { return store.Ref{Kind: kindStateMap, ID: fmt.Sprintf("%04x", n)} }

// head is what the token vouches for after every group: the size and root of the
// log, the root of the state map, and which intents are open. Its encoding:
//
//	cardkms-log-head/1
//	size N          entries
//	first N         the first entry whose content is still here
//	root BASE64     of the tree of all entries
//	state BASE64    of the state map
//	open N N ...    sequences of open intents, ascending, or "-"
type head struct {
	size, first int64
	root        tlog.Hash
	state       statemap.Digest
	open        []int64
}

const headHeader = "cardkms-log-head/1"

func (h head) encode() string {
	open := make([]string, len(h.open))
	for i, n := range h.open {
		open[i] = strconv.FormatInt(n, 10)
	}
	if len(open) == 0 {
		open = []string{"-"}
	}
	return fmt.Sprintf("%s\nsize %d\nfirst %d\nroot %s\nstate %s\nopen %s\n", headHeader, h.size, h.first,
		base64.StdEncoding.EncodeToString(h.root[:]), base64.StdEncoding.EncodeToString(h.state[:]), strings.Join(open, " "))
}

var errHead = errors.New("ledger: not the encoding of a head")

// parseHead accepts exactly what encode produces.
func parseHead(text string) (h head, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 7 {
		return h, errHead
	}
	value := func(line int, name string) string { return strings.TrimPrefix(lines[line], name+" ") }
	h.size, err = strconv.ParseInt(value(1, "size"), 10, 64)
	first, err1 := strconv.ParseInt(value(2, "first"), 10, 64)
	root, err2 := base64.StdEncoding.DecodeString(value(3, "root"))
	state, err3 := base64.StdEncoding.DecodeString(value(4, "state"))
	if errors.Join(err, err1, err2, err3) != nil || len(root) != len(h.root) || len(state) != len(h.state) {
		return h, errHead
	}
	h.first, h.root, h.state = first, tlog.Hash(root), statemap.Digest(state)
	if open := value(5, "open"); open != "-" {
		for s := range strings.SplitSeq(open, " ") {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return h, errHead
			}
			h.open = append(h.open, n)
		}
	}
	if h.encode() != text || h.size < 0 || h.first < 0 || h.first > h.size {
		return h, errHead
	}
	return h, nil
}

// blockEntries is the number of entries of a block. The roots of all blocks stay
// in memory, 32 bytes for each, so that an entry is checked by reading its block
// and not the log; and a block is what can be named when entry and stored hashes
// were changed together.
const (
	blockLevel   = 8
	blockEntries = 1 << blockLevel
)

// state is all that the ledger knows after one group. It never changes.
type state struct {
	head    head
	text    string // of the head; no two states have the same
	mac     []byte // of the head
	version int64  // of the head's row
	edge    audit.Edge
	rows    statemap.Map
	blocks  []tlog.Hash // roots of the full blocks; only ever appended to
	newest  time.Time   // of the last entry; zero if there is none or its content is gone
}

// next returns the state after a group: edge and blocks are those of the longer
// log, rows is the state map with the group's changes, open are the intents that are
// open then, and first is the first entry whose content stays.
func (s *state) next(edge audit.Edge, blocks []tlog.Hash, rows statemap.Map, open []int64, first int64) *state {
	h := head{size: edge.Size(), first: first, root: edge.Root(), state: rows.Root(), open: open}
	return &state{head: h, text: h.encode(), version: s.version + 1, edge: edge, rows: rows, blocks: blocks}
}

// row returns the row of the head.
func (s *state) row() store.Row {
	return store.Row{Ref: headRef, Version: s.version, Body: []byte(s.text), MAC: s.mac}
}

// isIn reports whether a row is this state's.
func (s *state) isIn(row store.Row) bool {
	return s.text == string(row.Body) && s.version == row.Version && hmac.Equal(s.mac, row.MAC)
}

// blockRoot returns the root of the block that the last of these hashes, stored
// for one leaf, completes; ok is false if it completes none.
func blockRoot(stored []tlog.Hash) (root tlog.Hash, ok bool) {
	if len(stored) <= blockLevel {
		return root, false
	}
	return stored[blockLevel], true
}

// withIntent returns the open intents after an entry.
func withIntent(open []int64, seq int64, e audit.Entry) []int64 {
	if e.Intent != nil {
		open = slices.DeleteFunc(slices.Clone(open), func(n int64) bool { return n == *e.Intent })
	}
	if e.Outcome == audit.OutcomePending {
		open = append(slices.Clone(open), seq)
	}
	return open
}

// states are the newest ones, so that a reader whose transaction began before a
// commit checks what it sees against the state of that moment.
type states struct {
	current *state
	recent  [64]*state // a ring
	at      int
}

// add makes a state known to readers. Before the commit it is known but not
// current; a reader can see it only if the commit happened.
func (s *states) add(st *state) {
	if s.find(st.row()) != nil {
		return
	}
	s.recent[s.at] = st
	s.at = (s.at + 1) % len(s.recent)
}

func (s *states) find(row store.Row) *state {
	for _, st := range s.recent {
		if st != nil && st.isIn(row) {
			return st
		}
	}
	return nil
}
