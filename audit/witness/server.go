package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/note"
)

// Config is a witness. All fields are required, but one of Dir and Memory.
type Config struct {
	Dir    string          // state, exclusively
	Memory Memory          // state elsewhere; Close closes it
	Signer note.Signer     // audit.NewCosigner
	Logs   []note.Verifier // the logs to watch; a key's name is the log's origin
	Logger *slog.Logger
}

// Server is a witness as an http.Handler for POST /add-checkpoint.
type Server struct {
	cfg   Config
	state Memory
	logs  map[string]*watched // by origin
	mux   *http.ServeMux
}

// watched is a log.
type watched struct {
	keys []note.Verifier
	mu   sync.Mutex // held from reading the last checkpoint to answering
}

// NewServer locks the directory and checks what it remembers.
func NewServer(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, logs: map[string]*watched{}, mux: http.NewServeMux()}
	for _, v := range cfg.Logs {
		if audit.IsCosigner(v) {
			return nil, fmt.Errorf("%w: %s is a witness's key, not a log's", audit.ErrKey, v.Name())
		}
		l := s.logs[v.Name()]
		if l == nil {
			l = &watched{}
			s.logs[v.Name()] = l
		}
		l.keys = append(l.keys, v)
	}
	if s.state = cfg.Memory; s.state == nil {
		dir, err := openState(cfg.Dir)
		if err != nil {
			return nil, err
		}
		s.state = dir
	}
	for origin, l := range s.logs {
		if _, err := s.last(origin, l); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	s.mux.HandleFunc("POST "+pathAddCheckpoint, s.addCheckpoint)
	return s, nil
}

// Close gives the directory back. Requests must have ended.
func (s *Server) Close() error { return s.state.Close() }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// refused is an answer other than 200.
type refused struct {
	status int
	reason string
	size   int64 // for 409
	// fork is a checkpoint, signed by the log, of another history: evidence.
	fork []byte
}

// Error formats the reason.
func (e *refused) Error() string { return e.reason }

func (s *Server) addCheckpoint(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestBytesMax))
	if err != nil {
		http.Error(w, "the request is too long or broke off", http.StatusBadRequest)
		return
	}
	lines, err := s.cosign(body)
	var no *refused
	switch {
	case errors.As(err, &no):
		s.report(r, no)
		no.answer(w)
	case err != nil:
		s.cfg.Logger.ErrorContext(r.Context(), "witness: failed", "error", err)
		http.Error(w, "the witness cannot work now", http.StatusInternalServerError)
	default:
		_, _ = w.Write(lines)
	}
}

func (s *Server) report(r *http.Request, no *refused) {
	if no.fork != nil {
		s.cfg.Logger.ErrorContext(r.Context(), "witness: refused another history",
			"status", no.status, "reason", no.reason, "from", r.RemoteAddr, "checkpoint", string(no.fork))
		return
	}
	s.cfg.Logger.WarnContext(r.Context(), "witness: refused", "status", no.status, "reason", no.reason, "from", r.RemoteAddr)
}

func (e *refused) answer(w http.ResponseWriter) {
	if e.status != http.StatusConflict {
		http.Error(w, e.reason, e.status)
		return
	}
	w.Header().Set("Content-Type", sizeType)
	w.WriteHeader(e.status)
	fmt.Fprintf(w, "%d\n", e.size)
}

// cosign checks in the order of [tlog-witness], add-checkpoint, and returns the
// signature line. The new checkpoint is durable before the line is returned.
func (s *Server) cosign(body []byte) ([]byte, error) {
	r, err := parseRequest(body)
	if err != nil {
		return nil, &refused{status: http.StatusBadRequest, reason: err.Error()}
	}
	text, _, _ := bytes.Cut(r.checkpoint, []byte("\n\n"))
	claimed, err := audit.ParseCheckpoint(string(text) + "\n")
	if err != nil {
		return nil, &refused{status: http.StatusBadRequest, reason: "not a checkpoint"}
	}
	l := s.logs[claimed.Origin]
	if l == nil {
		return nil, &refused{status: http.StatusNotFound, reason: "unknown log"}
	}
	c, v, err := l.open(r.checkpoint, claimed.Origin)
	if err != nil {
		return nil, &refused{status: http.StatusForbidden, reason: "no signature by a key of this log"}
	}
	if r.old > c.Size {
		return nil, &refused{status: http.StatusBadRequest, reason: "the old size is above the new one"}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last, err := s.last(c.Origin, l)
	if err != nil {
		return nil, err
	}
	if err := follows(r, c, last); err != nil {
		return nil, err
	}
	return s.sign(r.checkpoint, c, v)
}

// open returns the checkpoint with the key that signed it.
func (l *watched) open(msg []byte, origin string) (c audit.Checkpoint, v note.Verifier, err error) {
	for _, v = range l.keys {
		if c, err = audit.OpenCheckpoint(msg, origin, v); err == nil {
			break
		}
	}
	return c, v, err
}

// last returns the checkpoint that was cosigned last, or that of an empty log.
// What is on the disk must be signed by the log: a bit that flipped there must
// not look like a fork.
func (s *Server) last(origin string, l *watched) (audit.Checkpoint, error) {
	msg, err := s.state.Last(origin)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("reading the last checkpoint: %w", err)
	}
	if msg == nil {
		return audit.Checkpoint{Origin: origin, Root: (&audit.Edge{}).Root()}, nil
	}
	c, _, err := l.open(msg, origin)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("%w: %s: %w", ErrState, origin, err)
	}
	return c, nil
}

// follows checks that the new checkpoint continues the last one.
func follows(r request, c, last audit.Checkpoint) error {
	switch {
	case r.old != last.Size:
		return &refused{status: http.StatusConflict, reason: fmt.Sprintf("%s: old size %d, have %d", c.Origin, r.old, last.Size), size: last.Size}
	case c.Size == last.Size && c.Root != last.Root:
		return &refused{status: http.StatusConflict, reason: fmt.Sprintf("%s: two roots of size %d", c.Origin, c.Size), size: last.Size, fork: r.checkpoint}
	}
	if err := audit.CheckGrowth(r.proof, c, last); err != nil {
		return &refused{
			status: http.StatusUnprocessableEntity, fork: r.checkpoint,
			reason: fmt.Sprintf("%s: sizes %d to %d: %v", c.Origin, last.Size, c.Size, err),
		}
	}
	return nil
}

// sign cosigns a checkpoint. It keeps the log's signature and its own with it,
// and no other: whoever asks could add any.
func (s *Server) sign(msg []byte, c audit.Checkpoint, v note.Verifier) ([]byte, error) {
	opened, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return nil, err
	}
	kept := &note.Note{Text: opened.Text, Sigs: opened.Sigs}
	cosigned, err := note.Sign(kept, s.cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	before, err := note.Sign(kept)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	lines, ok := bytes.CutPrefix(cosigned, before)
	if !ok {
		panic("witness: package note writes new signatures after the old ones")
	}
	if len(cosigned) > audit.CheckpointBytesMax { // nobody could open it, this witness included
		return nil, &refused{status: http.StatusBadRequest, reason: "the checkpoint leaves no room for a cosignature"}
	}
	if err := s.state.Remember(c.Origin, cosigned); err != nil {
		return nil, fmt.Errorf("remembering a checkpoint: %w", err)
	}
	return lines, nil
}
