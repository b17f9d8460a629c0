package witness

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Local asks a witness in the same process, whose key and memory live elsewhere: what
// they are worth, it is worth. It is safe for concurrent use.
type Local struct {
	Server   *Server
	Verifier note.Verifier // of the witness
}

// Cosign is Client.Cosign. It waits as long as the server's signer and memory take, which
// bound themselves.
func (l *Local) Cosign(_ context.Context, oldSize int64, proof tlog.TreeProof, checkpoint []byte) ([]byte, error) {
	r := request{oldSize, proof, checkpoint}
	lines, err := l.Server.cosign(r.format())
	var no *refused
	switch {
	case errors.As(err, &no):
		return nil, refusalOf(no.status, no.size)
	case err != nil:
		return nil, fmt.Errorf("asking witness %s: %w", l.Verifier.Name(), err)
	}
	return (&Client{Verifier: l.Verifier}).add(checkpoint, lines)
}
