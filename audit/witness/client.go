package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What a witness answers instead of a cosignature.
var (
	// ErrInconsistent: the witness holds the new checkpoint to be another history
	// than the one that it cosigned before.
	ErrInconsistent = errors.New("witness: the checkpoint is not consistent with what the witness cosigned")
	// ErrNotTrusted: the witness has another key for this log.
	ErrNotTrusted = errors.New("witness: the witness does not know the key that signed the checkpoint")
	// ErrUnknownLog: the witness does not watch a log with this origin.
	ErrUnknownLog = errors.New("witness: the witness does not know this log")
	// ErrAnswer: the answer is not one of the protocol's, or holds no valid
	// cosignature of the witness.
	ErrAnswer = errors.New("witness: not an answer of this witness")
)

// SizeError says that the witness last cosigned a checkpoint of another size. If
// it is the size that was sent, the witness saw another root with that size.
type SizeError struct{ Size int64 }

// Error formats the size.
func (e *SizeError) Error() string {
	return fmt.Sprintf("witness: the last checkpoint that the witness cosigned has size %d", e.Size)
}

// answerBytesMax bounds an answer: a few signature lines.
const answerBytesMax = 16 << 10

// Client asks one witness. It is safe for concurrent use.
type Client struct {
	URL      string        // submission prefix, without add-checkpoint
	HTTP     *http.Client  // nil for http.DefaultClient
	Verifier note.Verifier // of the witness: audit.NewVerifier for a key of type 04
}

// Cosign asks for a cosignature of a checkpoint of the log, given the size of the
// last one that the witness cosigned and the proof that the log has only grown
// since ([audit.ProveGrowth]). It returns the checkpoint with the verified
// cosignature added. It waits as long as ctx allows, and can be repeated: a
// witness whose answer was lost answers SizeError with the new size.
func (c *Client) Cosign(ctx context.Context, oldSize int64, proof tlog.TreeProof, checkpoint []byte) ([]byte, error) {
	r := request{oldSize, proof, checkpoint}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.URL, "/")+pathAddCheckpoint, bytes.NewReader(r.format()))
	if err != nil {
		return nil, fmt.Errorf("asking witness %s: %w", c.Verifier.Name(), err)
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	doer := c.HTTP
	if doer == nil {
		doer = http.DefaultClient
	}
	resp, err := doer.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking witness %s: %w", c.Verifier.Name(), err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return nil, fmt.Errorf("asking witness %s: %w", c.Verifier.Name(), err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp, body)
	}
	return c.add(checkpoint, body)
}

func refusal(resp *http.Response, body []byte) error {
	if resp.StatusCode != http.StatusConflict {
		return refusalOf(resp.StatusCode, 0)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	text, ok := strings.CutSuffix(string(body), "\n")
	size, err := strconv.ParseInt(text, 10, 64)
	if media != sizeType || !ok || err != nil || size < 0 {
		return fmt.Errorf("%w: 409 without a size", ErrAnswer)
	}
	return refusalOf(resp.StatusCode, size)
}

// refusalOf returns what a status other than 200 says; size is that of 409.
func refusalOf(status int, size int64) error {
	switch status {
	case http.StatusConflict:
		return &SizeError{size}
	case http.StatusUnprocessableEntity:
		return ErrInconsistent
	case http.StatusForbidden:
		return ErrNotTrusted
	case http.StatusNotFound:
		return ErrUnknownLog
	}
	return fmt.Errorf("%w: %d %s", ErrAnswer, status, http.StatusText(status))
}

// add puts the witness's own line of the answer under the checkpoint, in place of
// an earlier one, and drops any other, which nobody here can verify.
func (c *Client) add(checkpoint, lines []byte) ([]byte, error) {
	split := bytes.LastIndex(checkpoint, []byte("\n\n"))
	if split < 0 {
		return nil, audit.ErrCheckpoint
	}
	answer := append(bytes.Clone(checkpoint[:split+2]), lines...)
	if _, err := audit.CosignatureTime(answer, c.Verifier); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return append(c.without(checkpoint), c.line(answer)...), nil
}

// line returns the witness's signature line of a note, empty for none.
func (c *Client) line(msg []byte) []byte {
	n, err := note.Open(msg, note.VerifierList(c.Verifier))
	if err != nil {
		return nil
	}
	return fmt.Appendf(nil, "— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64)
}

func (c *Client) without(checkpoint []byte) []byte {
	line := c.line(checkpoint)
	if line == nil {
		return bytes.Clone(checkpoint)
	}
	return bytes.Replace(checkpoint, line, nil, 1)
}
