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

// Record is what is left of a ceremony: who, what, when, and every check value.
// While the ceremony goes on it is the journal; at its end the log's key signs it.
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
	// Found: what the step makes was there already, e.g. because an earlier run broke
	// off before it could write this down.
	Found bool              `json:"found,omitempty"`
	Facts map[string]string `json:"facts,omitempty"`
}

// RecordFormat is the first field of a record.
const RecordFormat = "cardkms-ceremony/1"

// OpenRecord reads the journal of a ceremony, or begins one.
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
		return nil, invalid("the journal %s is of another version of the file; finish that one, or move the journal away", path)
	}
	// What the file says is the file's to say.
	have.Ceremony, have.Present, have.Together = r.Ceremony, r.Present, r.Together
	return &have, nil
}

// Has reports whether a step is in the record.
func (r *Record) Has(step string) bool {
	for _, s := range r.Steps {
		if s.Step == step {
			return true
		}
	}
	return false
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
