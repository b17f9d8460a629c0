package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cardkms/api"
	"cardkms/audit"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
	"cardkms/kms/report"
)

// service is the audit half of the API over a log in memory: what the auditor's
// commands speak to in scripts. It signs with a key of its own.
type service struct {
	mu      sync.Mutex // guards all below: a script and the commands' requests both change it
	key     ed25519.PrivateKey
	edge    audit.Edge
	hashes  []tlog.Hash // stored
	entries []api.AuditEntry
	msg     []byte // checkpoint, if a witness cosigned it
	lost    int    // entry that is signed and never given, or -1
	sealed  bool   // its token is away
	halted  bool

	proposal api.Proposal // of the approval commands
	dir      string       // of the script; the officers' public lines are in it
}

const logName = "kms.example.com/audit"

type serviceKey struct{}

// setup starts a service for a script and writes what an auditor was given:
// certificates in tls; log.vkey and w.vkey; other.vkey is of no log that he knows.
func setup(env *testscript.Env) error {
	s := &service{key: ed25519.NewKeyFromSeed(make([]byte, 32)), lost: -1, dir: env.WorkDir}
	web := httptest.NewTLSServer(s)
	env.Defer(web.Close)
	env.Values[serviceKey{}] = s
	env.Setenv("CARDKMS_SERVER", web.URL)
	vkey, err := audit.VerifierKey(logName, s.key.Public())
	if err != nil {
		return err
	}
	other, err := audit.VerifierKey(logName, witnessOf(s.key).Public())
	if err != nil {
		return err
	}
	witness, err := audit.CosignerKey("w", witnessOf(s.key).Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(web.TLS.Certificates[0].PrivateKey)
	if err != nil {
		return err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	for name, content := range map[string][]byte{
		"tls/ca.pem": certificate, "tls/auditor.pem": certificate, "log.vkey": []byte(vkey + "\n"),
		"other.vkey": []byte(other), "w.vkey": []byte(witness),
		"tls/auditor.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		path := filepath.Join(env.WorkDir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

func serviceOf(ts *testscript.TestScript) *service { return ts.Value(serviceKey{}).(*service) }

// grow is the script command "grow N": the log gets N more entries.
func grow(ts *testscript.TestScript, _ bool, args []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for range n {
		s.append(ts, "channel.open", map[string]string{"level": "33"})
	}
	s.msg = nil
}

// append adds an entry of an operation to the log.
func (s *service) append(ts *testscript.TestScript, operation string, detail map[string]string) {
	seq := s.edge.Size()
	e := audit.Entry{
		Sequence: seq, Time: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC).Add(time.Duration(seq) * time.Second),
		Actor: "spiffe://example.com/update-server/7", Origin: "192.0.2.17", Role: "update-server", Issuer: "acme",
		Operation: operation, Decision: audit.Allowed, Outcome: audit.OutcomeOK, Detail: detail,
	}
	b, err := e.Encode()
	ts.Check(err)
	s.entries = append(s.entries, api.AuditEntry{Sequence: seq, Text: string(b)})
	s.hashes = append(s.hashes, s.edge.Append(audit.LeafHash(b))...)
	s.msg = nil
}

// tell is the script command "tell OPERATION": the log gets an entry that says
// that it happened.
func tell(ts *testscript.TestScript, _ bool, args []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(ts, args[0], map[string]string{"level": "33"})
}

// begin is the script command "begin K NAME...": the log gets the entry that names
// the first officers, with the public lines NAME.pub.
func begin(ts *testscript.TestScript, _ bool, args []string) {
	k, err := strconv.Atoi(args[0])
	ts.Check(err)
	var officers []approval.Officer
	for _, name := range args[1:] {
		public, err := officerkey.ParseLine([]byte(ts.ReadFile(name + ".pub")))
		ts.Check(err)
		officers = append(officers, approval.Officer{Name: name, Identity: "spiffe://example.com/role/security-officer/" + name, Public: public})
	}
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(ts, "officer.init", approval.FirstDetail(officers, k))
}

// lose is the script command "lose N": the service never gives entry N.
func lose(ts *testscript.TestScript, _ bool, args []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	s.lost, err = strconv.Atoi(args[0])
	ts.Check(err)
}

// cosign is the script command "cosign": the witness of w.vkey cosigns the newest
// checkpoint.
func cosign(ts *testscript.TestScript, _ bool, _ []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Date(2026, 11, 12, 10, 0, 0, 0, time.UTC)
	w, err := audit.NewCosigner("w", witnessOf(s.key), func() time.Time { return at })
	ts.Check(err)
	s.msg, err = s.checkpoint(w)
	ts.Check(err)
}

// witnessOf derives the witness's key of the scripts from the log's.
func witnessOf(log ed25519.PrivateKey) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(log.Public().(ed25519.PublicKey))
}

func (s *service) read(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, s.hashes[i])
	}
	return out, nil
}

func (s *service) checkpoint(more ...note.Signer) ([]byte, error) {
	if s.msg != nil {
		return s.msg, nil
	}
	signer, err := audit.NewSigner(logName, s.key.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(s.key, m), nil })
	if err != nil {
		return nil, err
	}
	return audit.SignCheckpoint(audit.Checkpoint{Origin: logName, Size: s.edge.Size(), Root: s.edge.Root()}, append(more, signer)...)
}

// report signs a report of the log's entries.
func (s *service) report(name string) ([]byte, error) {
	h := report.Head{Report: report.Name(name), Log: logName, Made: time.Date(2026, 11, 13, 0, 0, 0, 0, time.UTC), Entries: s.edge.Size()}
	d, err := report.NewDaily(h, func(yield func(audit.Entry, error) bool) {
		for _, e := range s.entries {
			if !yield(audit.ParseEntry([]byte(e.Text))) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	signer, err := audit.NewSigner(logName, s.key.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(s.key, m), nil })
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: string(text) + "\n"}, signer)
}

// ServeHTTP answers the calls of the audit log.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(r.FormValue(name), 10, 64)
		return n
	}
	var out any
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.Prefix+"/audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		msg, _ := s.checkpoint()
		_, _ = w.Write(msg)
	})
	mux.HandleFunc("GET "+api.Prefix+"/audit/entries", func(http.ResponseWriter, *http.Request) {
		from := min(number("from"), s.edge.Size())
		end := min(from+number("limit"), s.edge.Size())
		if lost := int64(s.lost); s.lost >= 0 && from <= lost && lost < end {
			end = lost
		}
		out = api.AuditEntries{Entries: s.entries[from:end], Next: end}
	})
	mux.HandleFunc("GET "+api.Prefix+"/audit/reports/{name}", func(w http.ResponseWriter, r *http.Request) {
		msg, _ := s.report(r.PathValue("name"))
		_, _ = w.Write(msg)
	})
	mux.HandleFunc("GET "+api.Prefix+"/audit/entries/{n}/proof", func(_ http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		p, _ := audit.ProveEntry(number("size"), n, tlog.HashReaderFunc(s.read))
		answer := api.AuditProof{Sequence: n, Size: number("size")}
		for _, h := range p {
			answer.Hashes = append(answer.Hashes, bytes.Clone(h[:]))
		}
		out = answer
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.sealed {
			out = api.Health{Status: "degraded", Degraded: []string{"vault"}, Tokens: []api.TokenHealth{
				{Name: "main", State: "ready"}, {Name: "nss", State: "unavailable", Detail: "connecting"}}}
			if s.halted {
				out = api.Health{Status: "halted"}
			}
			return
		}
		p := api.NewProblem(api.TokenUnavailable, "the token is lost", "r1")
		p.Sealed = []api.Sealed{{State: "hsm-down", Runbook: "deploy/runbooks/hsm-down.md"}}
		w.Header().Set("Content-Type", api.ProblemType)
		w.WriteHeader(p.Status)
		out = p
	})
	mux.HandleFunc("GET "+api.Prefix+"/issuers/demo/cards", func(http.ResponseWriter, *http.Request) {
		out = api.CardList{Cards: []api.Card{
			{KDD: bytes.Repeat([]byte{1}, 10), KVN: 0x30, Package: "p1"}, {KDD: bytes.Repeat([]byte{2}, 10), Failures: 3, Quarantined: true}}}
	})
	mux.HandleFunc("GET "+api.Prefix+"/issuers/demo/cards/{kdd}", func(w http.ResponseWriter, _ *http.Request) { refuse(w, api.NotFound) })
	mux.HandleFunc("GET "+api.Prefix+"/issuers/demo/keys", func(w http.ResponseWriter, _ *http.Request) { refuse(w, api.Forbidden) })
	s.approvals(mux)
	mux.ServeHTTP(w, r)
	if out != nil {
		_ = json.NewEncoder(w).Encode(out)
	}
}

// seal is the script command "seal": the service's token goes away.
func seal(ts *testscript.TestScript, _ bool, _ []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
}

// exits is the script command "exits STATUS COMMAND...".
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// flip is the script command "flip FILE BYTE": the lowest bit of that byte.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}
