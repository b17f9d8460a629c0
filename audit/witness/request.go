package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofHashesMax = 63
	// requestBytesMax is a line for the old size, 63 of base64, and a checkpoint.
	requestBytesMax = 32 + proofHashesMax*45 + audit.CheckpointBytesMax

	pathAddCheckpoint = "/add-checkpoint"
	sizeType          = "text/x.tlog.size"
)

var errRequest = errors.New("witness: not an add-checkpoint request")

// request is the body of add-checkpoint ([tlog-witness], add-checkpoint).
type request struct {
	old        int64
	proof      tlog.TreeProof
	checkpoint []byte
}

func (r *request) format() []byte {
	b := append(strconv.AppendInt([]byte("old "), r.old, 10), '\n')
	for _, h := range r.proof {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), r.checkpoint...)
}

// parseRequest accepts exactly what format produces.
func parseRequest(body []byte) (request, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	old, isOld := strings.CutPrefix(lines[0], "old ")
	size, err := strconv.ParseInt(old, 10, 64)
	if !ok || !isOld || err != nil || size < 0 || len(lines) > 1+proofHashesMax || len(checkpoint) == 0 {
		return request{}, errRequest
	}
	r := request{old: size, checkpoint: checkpoint}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != tlog.HashSize {
			return request{}, errRequest
		}
		r.proof = append(r.proof, tlog.Hash(h))
	}
	if !bytes.Equal(r.format(), body) {
		return request{}, errRequest
	}
	return r, nil
}
