package witness

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cardkms/audit"

	formats "github.com/transparency-dev/formats/note"
	policy "github.com/transparency-dev/formats/witness"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	origin = "kms.example.com/audit"
	name   = "witness.example.com/w1"
)

var (
	logKey     = ed25519.NewKeyFromSeed(make([]byte, 32))
	witnessKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	now        = time.Date(2026, 11, 12, 9, 31, 0, 0, time.UTC)
)

// history is a log in memory; two with one name up to an entry are forks.
type history struct {
	t      testing.TB
	signer note.Signer
	roots  []tlog.Hash // by size
	hashes []tlog.Hash // stored
}

// ReadHashes reads stored hashes.
func (h *history) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, h.hashes[i])
	}
	return out, nil
}

func newHistory(t testing.TB, origin string, size, forkAt int) *history {
	t.Helper()
	s, err := audit.NewSigner(origin, logKey.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(logKey, m), nil })
	if err != nil {
		t.Fatal(err)
	}
	var edge audit.Edge
	h := &history{t: t, signer: s, roots: []tlog.Hash{edge.Root()}}
	for n := range size {
		h.hashes = append(h.hashes, edge.Append(audit.LeafHash(fmt.Appendf(nil, "%d %v", n, n >= forkAt)))...)
		h.roots = append(h.roots, edge.Root())
	}
	return h
}

func (h *history) checkpoint(size int64) []byte {
	h.t.Helper()
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: h.signer.Name(), Size: size, Root: h.roots[size]}, h.signer)
	if err != nil {
		h.t.Fatal(err)
	}
	return msg
}

func (h *history) proof(from, to int64) tlog.TreeProof {
	h.t.Helper()
	p, err := audit.ProveGrowth(to, from, h)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// ask asks for a cosignature of the history's growth.
func (h *history) ask(c *Client, from, to int64) ([]byte, error) {
	return c.Cosign(h.t.Context(), from, h.proof(from, to), h.checkpoint(to))
}

func verifier(t testing.TB, name string) note.Verifier {
	t.Helper()
	vkey, err := audit.VerifierKey(name, logKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	return newVerifier(t, vkey)
}

func newVerifier(t testing.TB, vkey string) note.Verifier {
	t.Helper()
	v, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func witnessVkey(t testing.TB) string {
	t.Helper()
	vkey, err := audit.CosignerKey(name, witnessKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// serve starts a witness of two logs on a directory.
func serve(t testing.TB, dir string, log io.Writer) (*Server, *Client) {
	t.Helper()
	signer, err := audit.NewCosigner(name, witnessKey, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{
		Dir: dir, Signer: signer, Logs: []note.Verifier{verifier(t, origin), verifier(t, "second")},
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() { web.Close(); _ = s.Close() })
	return s, &Client{URL: web.URL, HTTP: web.Client(), Verifier: newVerifier(t, witnessVkey(t))}
}

// TestCosignatureNeedsRoom: a checkpoint that the log's signature fills is refused,
// and the witness goes on and starts again.
func TestCosignatureNeedsRoom(t *testing.T) {
	h := newHistory(t, origin, 2, 99)
	dir := t.TempDir()
	s, c := serve(t, dir, io.Discard)
	full := func(room int) []byte {
		line := strings.Repeat("x", audit.CheckpointBytesMax-len(h.checkpoint(1))-1-room)
		msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: 1, Root: h.roots[1], Extensions: []string{line}}, h.signer)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	if len(full(0)) != audit.CheckpointBytesMax {
		t.Fatalf("%d bytes", len(full(0)))
	}
	var no *refused
	if _, err := s.cosign((&request{0, h.proof(0, 1), full(0)}).format()); !errors.As(err, &no) || no.status != http.StatusBadRequest {
		t.Errorf("no room: %v", err)
	}
	if _, err := s.cosign((&request{0, h.proof(0, 1), full(300)}).format()); err != nil {
		t.Errorf("room: %v", err)
	}
	if _, err := h.ask(c, 1, 2); err != nil {
		t.Errorf("the next checkpoint: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, io.Discard)
}

func TestCosign(t *testing.T) {
	h := newHistory(t, origin, 20, 99)
	_, c := serve(t, t.TempDir(), io.Discard)
	for _, step := range [][2]int64{{0, 0}, {0, 3}, {3, 3}, {3, 4}, {4, 20}} {
		msg, err := h.ask(c, step[0], step[1])
		if err != nil {
			t.Fatalf("%v: %v", step, err)
		}
		at, err1 := audit.CosignatureTime(msg, c.Verifier)
		got, err2 := audit.OpenCheckpoint(msg, origin, verifier(t, origin))
		if err1 != nil || err2 != nil || !at.Equal(now) || got.Size != step[1] {
			t.Errorf("%v: %v, %v, %v", step, at, err1, err2)
		}
		again, err := c.Cosign(t.Context(), step[1], nil, msg)
		if err != nil || !bytes.Equal(again, msg) {
			t.Errorf("%v: cosigned again: %q, %v", step, again, err)
		}
	}
}

// TestFormatsAgree has transparency-dev/formats verify what our witness returns.
func TestFormatsAgree(t *testing.T) {
	h := newHistory(t, origin, 5, 99)
	_, c := serve(t, t.TempDir(), io.Discard)
	msg, err := h.ask(c, 0, 5)
	if err != nil {
		t.Fatal(err)
	}
	v, err := formats.NewVerifierForCosignatureV1(witnessVkey(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	p, err := policy.ParsePolicy([]byte("witness w1 " + witnessVkey(t) + " " + c.URL + "\nquorum w1\n"))
	if err != nil || !p.Satisfied(msg) || p.Satisfied(h.checkpoint(5)) {
		t.Errorf("the policy is not satisfied by exactly the cosignature, %v", err)
	}
	if _, ok := p.Endpoints()[c.URL+"/add-checkpoint"]; !ok {
		t.Errorf("they would ask %v", p.Endpoints())
	}
}

// TestRefusals has every answer of the protocol, and what the client makes of it.
// The witness has cosigned size 10; nothing here changes that.
func TestRefusals(t *testing.T) {
	h, fork := newHistory(t, origin, 20, 99), newHistory(t, origin, 20, 5)
	unknown := newHistory(t, "third", 20, 99)
	var log bytes.Buffer
	s, c := serve(t, t.TempDir(), &log)
	if _, err := h.ask(c, 0, 10); err != nil {
		t.Fatal(err)
	}
	body := func(old string, p tlog.TreeProof, msg []byte) string {
		r := request{proof: p, checkpoint: msg}
		return strings.Replace(string(r.format()), "old 0", "old "+old, 1)
	}
	good := body("10", h.proof(10, 20), h.checkpoint(20))
	for _, tt := range []struct {
		name, body string
		status     int
		size       string
	}{
		{"empty", "", 400, ""},
		{"no old line", strings.Replace(good, "old 10\n", "", 1), 400, ""},
		{"leading zero", body("010", h.proof(10, 20), h.checkpoint(20)), 400, ""},
		{"negative", body("-1", nil, h.checkpoint(20)), 400, ""},
		{"return", strings.Replace(good, "old 10\n", "old 10\r\n", 1), 400, ""},
		{"no empty line", strings.Replace(good, "\n\n", "\n", 2), 400, ""},
		{"64 hashes", body("10", make(tlog.TreeProof, 64), h.checkpoint(20)), 400, ""},
		{"no checkpoint", "old 10\n\n", 400, ""},
		{"no note", "old 10\n\nx\n", 400, ""},
		{"too long", good + strings.Repeat("x", requestBytesMax), 400, ""},
		{"old above new", body("11", nil, h.checkpoint(10)), 400, ""},
		{"unknown log", body("0", nil, unknown.checkpoint(20)), 404, ""},
		{"other key", body("10", h.proof(10, 20), strange(t, h.checkpoint(20))), 403, ""},
		{"forged text", strings.Replace(good, "\n20\n", "\n21\n", 1), 403, ""},
		{"rollback", body("5", nil, h.checkpoint(5)), 409, "10\n"},
		{"old too small", body("5", h.proof(5, 20), h.checkpoint(20)), 409, "10\n"},
		{"old too great", body("11", h.proof(11, 20), h.checkpoint(20)), 409, "10\n"},
		{"starts again", body("0", nil, h.checkpoint(20)), 409, "10\n"},
		{"fork of the same size", body("10", nil, fork.checkpoint(10)), 409, "10\n"},
		{"fork", body("10", fork.proof(10, 20), fork.checkpoint(20)), 422, ""},
		{"no proof", body("10", nil, h.checkpoint(20)), 422, ""},
		{"proof of another step", body("10", h.proof(9, 20), h.checkpoint(20)), 422, ""},
		{"proof where none is needed", body("10", h.proof(9, 10), h.checkpoint(10)), 422, ""},
	} {
		log.Reset()
		resp, err := http.Post(c.URL+"/add-checkpoint", "text/plain", strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		conflict := resp.Header.Get("Content-Type") == "text/x.tlog.size" && string(answer) == tt.size
		if resp.StatusCode != tt.status || conflict != (tt.status == 409) || strings.Contains(string(answer), "—") {
			t.Errorf("%s: %d %q", tt.name, resp.StatusCode, answer)
		}
		if tt.name != "too long" && !strings.Contains(log.String(), fmt.Sprintf("status=%d", tt.status)) {
			t.Errorf("%s is not in the log: %s", tt.name, log.String())
		}
		if strings.HasPrefix(tt.name, "fork") != strings.Contains(log.String(), "another history") && tt.status != 422 {
			t.Errorf("%s: %s", tt.name, log.String())
		}
	}
	for _, tt := range []struct{ method, path string }{{"GET", "/add-checkpoint"}, {"POST", "/"}, {"POST", "/add-checkpoint/x"}} {
		req := httptest.NewRequest(tt.method, tt.path, strings.NewReader(good))
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, req)
		if rec.Code != 404 && rec.Code != 405 {
			t.Errorf("%s %s: %d", tt.method, tt.path, rec.Code)
		}
	}
	if _, err := h.ask(c, 10, 20); err != nil {
		t.Errorf("after all refusals: %v", err)
	}
}

// strange signs the text of a checkpoint with another key of the same name.
func strange(t *testing.T, msg []byte) []byte {
	t.Helper()
	text, _, _ := strings.Cut(string(msg), "\n\n")
	s, err := audit.NewSigner(origin, witnessKey.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(witnessKey, m), nil })
	if err != nil {
		t.Fatal(err)
	}
	out, err := note.Sign(&note.Note{Text: text + "\n"}, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestServerRefusesKeys(t *testing.T) {
	_, err := NewServer(Config{Dir: t.TempDir(), Logs: []note.Verifier{newVerifier(t, witnessVkey(t))}})
	if !errors.Is(err, audit.ErrKey) {
		t.Errorf("a witness as a log: %v", err)
	}
}

// FuzzParseRequest: what is accepted is what format writes, byte for byte.
func FuzzParseRequest(f *testing.F) {
	h := newHistory(f, origin, 20, 99)
	r := request{10, h.proof(10, 20), h.checkpoint(20)}
	f.Add(r.format())
	f.Add([]byte("old 0\n\nx"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRequest(body)
		if err != nil {
			return
		}
		if again := r.format(); !bytes.Equal(again, body) {
			t.Errorf("parsed %q, written %q", body, again)
		}
	})
}
