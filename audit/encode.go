package audit

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	header     = "cardkms-audit-entry/1"
	none       = "-"
	timeLayout = "2006-01-02T15:04:05.000000000Z"
)

// Encode returns the one encoding of the entry, or a *FieldError.
func (e *Entry) Encode() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	b := e.append(make([]byte, 0, 640))
	if len(b) > EntryBytesMax {
		return nil, bad("detail", "makes the entry too long")
	}
	return b, nil
}

// append writes the lines in the order of the package comment.
func (e *Entry) append(b []byte) []byte {
	b = append(append(b, header...), '\n')
	b = line(b, "sequence", strconv.FormatInt(e.Sequence, 10))
	b = append(e.Time.UTC().AppendFormat(append(b, "time "...), timeLayout), '\n')
	b = line(b, "actor", e.Actor)
	b = line(b, "origin", e.Origin)
	b = line(b, "role", e.Role)
	b = line(b, "issuer", e.Issuer)
	b = line(b, "operation", e.Operation)
	b = line(b, "object", e.Object)
	b = line(b, "key", e.Key)
	b = line(b, "request", e.Request)
	b = digestLine(b, "digest", e.Digest)
	b = line(b, "decision", string(e.Decision))
	b = line(b, "outcome", e.Outcome)
	b = line(b, "intent", formatIntent(e.Intent))
	b = line(b, "algorithm", string(e.Algorithm))
	b = line(b, "card", e.Card)
	b = digestLine(b, "previous", e.Previous)
	b = digestLine(b, "state", e.State)
	return detailLine(b, e.Detail)
}

func line(b []byte, name, value string) []byte {
	if value == "" {
		value = none
	}
	b = append(append(b, name...), ' ')
	return append(append(b, value...), '\n')
}

func digestLine(b []byte, name string, d Digest) []byte {
	if d == (Digest{}) {
		return line(b, name, none)
	}
	b = append(append(b, name...), ' ')
	return append(hex.AppendEncode(b, d[:]), '\n')
}

func formatIntent(n *int64) string {
	if n == nil {
		return none
	}
	return strconv.FormatInt(*n, 10)
}

func detailLine(b []byte, detail map[string]string) []byte {
	if len(detail) == 0 {
		return line(b, "detail", none)
	}
	b = append(b, "detail"...)
	for _, k := range slices.Sorted(maps.Keys(detail)) {
		b = append(append(b, ' '), k...)
		b = append(append(b, '='), detail[k]...)
	}
	return append(b, '\n')
}

// LeafHash returns the hash of the leaf that holds this encoding, [RFC 6962],
// Section 2.1: SHA-256(00 | encoding).
func LeafHash(encoding []byte) tlog.Hash { return tlog.RecordHash(encoding) }

// formatTime is the time line's value; the parser compares against it.
func formatTime(t time.Time) string { return t.UTC().Format(timeLayout) }
