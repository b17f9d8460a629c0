package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrProof: the text is not a proof, or the proof does not hold.
var ErrProof = errors.New("audit: not a proof of this entry")

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	// proofHashesMax is the height of the greatest tree.
	proofHashesMax = 63
	// proofExtraMax bounds the extra data in bytes.
	proofExtraMax = 64 << 10
)

// Proof shows without any service that a log holds an entry. It is kept in a file
// whose name ends in .tlog-proof ([tlog-proof]).
type Proof struct {
	Index      int64            // sequence of the entry
	Hashes     tlog.RecordProof // from the leaf's sibling upwards
	Checkpoint []byte           // signed note
	// Extra is opaque and not authenticated; nil for none.
	Extra []byte
}

// Format returns the text of the proof.
func (p *Proof) Format() []byte {
	b := []byte(proofHeader + "\n")
	if len(p.Extra) > 0 {
		b = append(base64.StdEncoding.AppendEncode(append(b, "extra "...), p.Extra), '\n')
	}
	b = append(strconv.AppendInt(append(b, "index "...), p.Index, 10), '\n')
	for _, h := range p.Hashes {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), p.Checkpoint...)
}

// ParseProof returns the proof with this text. It accepts exactly what Format
// produces; the proof itself is Check's to check.
func ParseProof(text []byte) (Proof, error) {
	head, checkpoint, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok || len(checkpoint) == 0 || len(checkpoint) > CheckpointBytesMax {
		return Proof{}, ErrProof
	}
	p := Proof{Checkpoint: checkpoint}
	if err := p.parseHead(strings.Split(string(head), "\n")); err != nil {
		return Proof{}, err
	}
	if !bytes.Equal(p.Format(), text) {
		return Proof{}, ErrProof
	}
	return p, nil
}

// parseHead leaves the exact form to the comparison with the text of the result.
func (p *Proof) parseHead(lines []string) (err error) {
	if lines[0] != proofHeader {
		return ErrProof
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		p.Extra, err = base64.StdEncoding.DecodeString(lines[0][len("extra "):])
		if err != nil || len(p.Extra) > proofExtraMax {
			return ErrProof
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || len(lines) > 1+proofHashesMax {
		return ErrProof
	}
	index, ok := strings.CutPrefix(lines[0], "index ")
	if p.Index, err = strconv.ParseInt(index, 10, 64); err != nil || !ok || p.Index < 0 {
		return ErrProof
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != tlog.HashSize {
			return ErrProof
		}
		p.Hashes = append(p.Hashes, tlog.Hash(h))
	}
	return nil
}

// Check checks that the log with this origin and key holds the entry with this
// encoding, and that each witness cosigned the checkpoint. It returns the entry
// and the checkpoint that proves it.
func (p *Proof) Check(encoding []byte, origin string, log note.Verifier, witnesses ...note.Verifier) (Entry, Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, origin, log)
	if err != nil {
		return Entry{}, Checkpoint{}, err
	}
	for _, w := range witnesses {
		if _, err := CosignatureTime(p.Checkpoint, w); err != nil {
			return Entry{}, Checkpoint{}, err
		}
	}
	if p.Index < 0 || p.Index >= c.Size || CheckEntry(p.Hashes, c, p.Index, encoding) != nil {
		return Entry{}, Checkpoint{}, ErrProof
	}
	e, err := ParseEntry(encoding)
	if err != nil {
		return Entry{}, Checkpoint{}, err
	}
	if e.Sequence != p.Index {
		return Entry{}, Checkpoint{}, &EntryError{p.Index, "carries another sequence"}
	}
	return e, c, nil
}
