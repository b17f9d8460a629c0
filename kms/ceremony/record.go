package ceremony

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"cardkms/audit/durable"
)

// Record is what is left of a ceremony: who, what, when, and every check value. The log's
// key signs it. While the ceremony goes on it is the journal of the token steps, which
// happen before there is a database; what else happened, the database says.
type Record struct {
	Record   string `json:"record"` // "cardkms-ceremony/1"
	Ceremony string `json:"ceremony"`
	File     string `json:"file"` // SHA-256
	Token    string `json:"token,omitempty"`
	// Names as the file states them; nobody proves them here but officers, by signatures.
	Present  []string `json:"present"`
	Officers []string `json:"officers,omitempty"` // who signed the file
	Together bool     `json:"together"`
	Steps    []Step   `json:"steps"`
}

// Step is one step that was taken.
type Step struct {
	Step string    `json:"step"`
	By   string    `json:"by"` // the operating system's user
	At   time.Time `json:"at"`
	// Found: what the step makes was there already, or nothing but this says that this
	// ceremony made it, e.g. because a run broke off before it could be written down.
	Found bool              `json:"found,omitempty"`
	Facts map[string]string `json:"facts,omitempty"`
}

// RecordFormat is the first field of a record.
const RecordFormat = "cardkms-ceremony/1"

// The steps that a journal keeps: those before there is a log.
const (
	TokenStep       = "token"
	ServiceKeysStep = "service keys"
)

// OpenRecord reads the journal of a ceremony, or begins one. It is a file that anybody
// at the console can write, so nothing of it counts but who says to have taken a token
// step, and when: what the step made is asked of the token.
func OpenRecord(path string, f *File) (*Record, error) {
	r := &Record{Record: RecordFormat, Ceremony: f.Title, File: f.Hex(), Present: f.Present, Together: f.Together}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	var have Record
	if err := json.Unmarshal(b, &have); err != nil {
		return nil, fmt.Errorf("reading the journal %s: %w", path, err)
	}
	if have.File != r.File {
		return nil, invalid("the journal %s is of another version of the file; finish that one, or abandon it", path)
	}
	for _, s := range have.Steps {
		if (s.Step == TokenStep || s.Step == ServiceKeysStep) && !r.Has(s.Step) {
			s.Facts = nil
			r.Steps = append(r.Steps, s)
		}
	}
	return r, nil
}

// Has reports whether a step is in the record.
func (r *Record) Has(step string) bool { return r.Find(step) != nil }

// Find returns a step of the record, nil if it has none of this name.
func (r *Record) Find(step string) *Step {
	for i := range r.Steps {
		if r.Steps[i].Step == step {
			return &r.Steps[i]
		}
	}
	return nil
}

// Text returns the record as it is signed: JSON and a line feed.
func (r *Record) Text() (string, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return string(b) + "\n", err
}

// Save writes the journal.
func (r *Record) Save(path string) error {
	text, err := r.Text()
	if err != nil {
		return err
	}
	return durable.Replace(path, []byte(text), 0o600)
}
