package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// CheckpointBytesMax is the greatest length of a signed checkpoint in bytes.
const CheckpointBytesMax = 64 << 10

// Checkpoint says what the whole log was at one size.
type Checkpoint struct {
	Origin     string    // names the log, e.g. "kms.example.com/audit"
	Size       int64     // number of entries
	Root       tlog.Hash // of the tree of all entries
	Extensions []string  // further signed lines, e.g. the root of the state map
}

// Errors of checkpoints.
var (
	// ErrCheckpoint: the text is not a checkpoint of this log.
	ErrCheckpoint = errors.New("audit: not a checkpoint of this log")
	// ErrSignature: the log's key did not sign this checkpoint.
	ErrSignature = errors.New("audit: the checkpoint is not signed by the log's key")
)

// Text returns the text of the note, or ErrCheckpoint if a field cannot be
// written.
func (c Checkpoint) Text() (string, error) {
	if c.Size < 0 || !validLine(c.Origin) {
		return "", ErrCheckpoint
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	for _, line := range c.Extensions {
		if !validLine(line) {
			return "", ErrCheckpoint
		}
		b.WriteString(line + "\n")
	}
	return b.String(), nil
}

// validLine accepts what a note may hold on one line that is not empty.
func validLine(s string) bool {
	return s != "" && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// ParseCheckpoint returns the checkpoint with this text. It accepts exactly what
// Text produces. The signature is OpenCheckpoint's to check.
func ParseCheckpoint(text string) (Checkpoint, error) {
	body, ok := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 || len(text) > CheckpointBytesMax {
		return Checkpoint{}, ErrCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return Checkpoint{}, ErrCheckpoint
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, ErrCheckpoint
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	if again, err := c.Text(); err != nil || again != text {
		return Checkpoint{}, ErrCheckpoint
	}
	return c, nil
}

// SignCheckpoint returns the checkpoint as a note signed by each signer.
func SignCheckpoint(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	if len(signers) == 0 {
		return nil, errors.New("audit: a checkpoint needs a signer")
	}
	text, err := c.Text()
	if err != nil {
		return nil, err
	}
	msg, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		return nil, fmt.Errorf("signing the checkpoint of size %d: %w", c.Size, err)
	}
	return msg, nil
}

// OpenCheckpoint returns the checkpoint in a signed note of the log with this
// origin. Signatures by other keys, such as witnesses', are ignored; the log's
// own must be there and must verify. A witness's key is no log's key: ErrKey.
func OpenCheckpoint(msg []byte, origin string, v note.Verifier) (Checkpoint, error) {
	if IsCosigner(v) {
		return Checkpoint{}, ErrKey
	}
	n, err := openNote(msg, v)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != origin {
		return Checkpoint{}, ErrCheckpoint
	}
	return c, nil
}

// openNote returns a note with a valid signature of v, or ErrSignature.
func openNote(msg []byte, v note.Verifier) (*note.Note, error) {
	if len(msg) > CheckpointBytesMax {
		return nil, ErrCheckpoint
	}
	n, err := note.Open(msg, note.VerifierList(v))
	var unsigned *note.UnverifiedNoteError
	var forged *note.InvalidSignatureError
	switch {
	case errors.As(err, &unsigned), errors.As(err, &forged):
		return nil, ErrSignature
	case err != nil || !canonical(n.Sigs) || !canonical(n.UnverifiedSigs):
		return nil, ErrCheckpoint
	}
	return n, nil
}

// canonical reports whether the signatures are written in the one base64 form.
// The decoder of package note ignores the spare bits of the last character, so
// that a bit of a note could change and nobody would notice.
func canonical(signatures []note.Signature) bool {
	for _, s := range signatures {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || base64.StdEncoding.EncodeToString(raw) != s.Base64 {
			return false
		}
	}
	return true
}
