// Package report answers what auditors ask again and again: which keys there are,
// when their cryptoperiods end, who may do what and did it, which algorithms were
// used, and what happened on a day.
//
// The questions are those of [PCI DSS] PCI DSS v4.0, requirements 3.6.1.1
// (inventory of keys with strength and expiry), 3.7.4 (cryptoperiods), 7.2.4
// (access reviews), 10.4.1 (daily review) and 12.3.3 (review of algorithms), and
// of [SP 800-57] NIST SP 800-57 Part 1 Revision 5, Section 5.3 (cryptoperiods).
//
// A report is a document with a fixed JSON form, which the service signs as a C2SP
// signed-note under the log's key, and a text form for people. Both are computed
// here, from entries and key versions that the caller read; this package does no
// I/O, reads no clock and decides nothing.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Name names a report.
type Name string

// The reports.
const (
	Inventory     Name = "inventory"
	Cryptoperiods Name = "cryptoperiods"
	Access        Name = "access"
	Algorithms    Name = "algorithms"
	Daily         Name = "daily"
)

// Names returns the names of all reports.
func Names() []Name { return []Name{Inventory, Cryptoperiods, Access, Algorithms, Daily} }

// Head says what a report is about. Reports of a period cover the entries with a
// time in [From, To); the others are of the moment Made.
type Head struct {
	Report Name      `json:"report"`
	Log    string    `json:"log"` // origin of the audit log
	Made   time.Time `json:"made"`
	From   time.Time `json:"from,omitzero"`
	To     time.Time `json:"to,omitzero"`
	// Entries is the size of the log that the report was computed from, and Root
	// the root of its tree, in base64 as checkpoints have it.
	Entries int64  `json:"entries"`
	Root    string `json:"root"`
}

// Document is a report.
type Document interface {
	// Text returns the report for a person to read.
	Text() string
}

// ErrUnknown: not a report that this version knows.
var ErrUnknown = errors.New("report: not a known report")

// Parse returns the report with this JSON form.
func Parse(b []byte) (Document, error) {
	var h Head
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	var d Document
	switch h.Report {
	case Inventory:
		d = &InventoryReport{}
	case Cryptoperiods:
		d = &CryptoperiodsReport{}
	case Access:
		d = &AccessReport{}
	case Algorithms:
		d = &AlgorithmsReport{}
	case Daily:
		d = &DailyReport{}
	default:
		return nil, ErrUnknown
	}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	return d, nil
}
