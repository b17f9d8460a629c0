package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cardkms/api"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
)

// approvals answers the calls of dual control about one proposal. It verifies
// signatures as the service does, but not whose they are.
func (s *service) approvals(mux *http.ServeMux) {
	answer := func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(s.proposal) }
	mux.HandleFunc("GET "+api.Prefix+"/officers", s.officers)
	mux.HandleFunc("POST "+api.Prefix+"/proposals", func(w http.ResponseWriter, r *http.Request) {
		var in api.Propose
		_ = json.NewDecoder(r.Body).Decode(&in)
		p := approval.Proposal{
			ID: strings.Repeat("a1", 16), Issuer: in.Issuer, Operation: in.Operation, Object: in.Object, Params: in.Params, Expected: 3,
			Proposer: "ada", Created: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC), Expires: time.Date(2026, 11, 13, 9, 30, 0, 0, time.UTC),
		}
		encoding, err := p.Encode()
		if err != nil || effects[p.Operation] == "" {
			refuse(w, api.InvalidInput)
			return
		}
		s.proposal = api.Proposal{ID: p.ID, Operation: p.Operation, Object: p.Object, Proposer: p.Proposer, Created: p.Created, Expires: p.Expires, Encoding: string(encoding), State: api.ProposalOpen, Required: 2, Document: in.Document, Decisions: []api.Decision{}}
		answer(w)
	})
	mux.HandleFunc("GET "+api.Prefix+"/proposals/{id}", func(w http.ResponseWriter, _ *http.Request) { answer(w) })
	mux.HandleFunc("GET "+api.Prefix+"/proposals", func(w http.ResponseWriter, _ *http.Request) {
		old := api.Proposal{
			ID: strings.Repeat("f", 32), State: api.ProposalRejected, Operation: approval.ProfileRegister, Object: "issuers/demo/profiles/default",
			Proposer: "bob", Required: 2, Created: s.proposal.Created.Add(-time.Hour), Expires: s.proposal.Created.Add(time.Hour),
		}
		_ = json.NewEncoder(w).Encode(api.ProposalList{Proposals: []api.Proposal{s.proposal, old}})
	})
	mux.HandleFunc("POST "+api.Prefix+"/proposals/{call}", func(w http.ResponseWriter, r *http.Request) {
		_, verb, _ := strings.Cut(r.PathValue("call"), ":")
		var in api.Decide
		_ = json.NewDecoder(r.Body).Decode(&in)
		if verb == "execute" {
			if s.proposal.Counted < s.proposal.Required {
				refuse(w, api.ApprovalRequired)
				return
			}
			s.proposal.State = api.ProposalExecuted
			answer(w)
			return
		}
		if !s.known(approval.Decision(verb), in.Signature) {
			refuse(w, api.ProofFailed)
			return
		}
		s.proposal.Decisions = append(s.proposal.Decisions, api.Decision{Officer: "bob", Decision: verb})
		s.proposal.Counted++
		answer(w)
	})
	profile := api.CardProfile{Name: "issuers/demo/profiles/default", Profile: "default", Version: 2, Registered: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC), SHA256: bytes.Repeat([]byte{0xAB}, 32), Withdrawn: true}
	other := profile
	other.Name, other.Version, other.Withdrawn = "issuers/demo/profiles/visa-2", 11, false
	mux.HandleFunc("GET "+api.Prefix+"/issuers/demo/profiles", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.CardProfileList{Profiles: []api.CardProfile{profile, other}})
	})
	mux.HandleFunc("GET "+api.Prefix+"/issuers/demo/profiles/default", func(w http.ResponseWriter, r *http.Request) {
		old := profile
		old.Version, _ = strconv.Atoi(r.FormValue("version"))
		old.Document = "name: default\n"
		_ = json.NewEncoder(w).Encode(old)
	})
	suspended := api.Suspension{Client: "spiffe://cardkms.dev/role/update-server/one", By: "spiffe://cardkms.dev/role/security-officer/ada", Since: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC)}
	mux.HandleFunc("POST "+api.Prefix+"/clients:suspend", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&suspended)
		_ = json.NewEncoder(w).Encode(suspended)
	})
	mux.HandleFunc("GET "+api.Prefix+"/clients", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.SuspensionList{Clients: []api.Suspension{suspended}})
	})
	mux.HandleFunc("POST "+api.Prefix+"/system:halt", func(w http.ResponseWriter, _ *http.Request) {
		s.halted = true
		_ = json.NewEncoder(w).Encode(api.System{Halted: true})
	})
}

// known reports whether an officer of the script made a signature.
func (s *service) known(d approval.Decision, signature []byte) bool {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.pub"))
	statement := approval.Statement(d, approval.DigestOf([]byte(s.proposal.Encoding)))
	for _, f := range files {
		line, _ := os.ReadFile(f)
		if public, err := officerkey.ParseLine(line); err == nil && ed25519.Verify(public, statement, signature) {
			return true
		}
	}
	return false
}

func refuse(w http.ResponseWriter, c api.Code) {
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(c.Status())
	_ = json.NewEncoder(w).Encode(api.NewProblem(c, "", "r1"))
}

// lie is the script command "lie OLD NEW": the service describes the proposal with
// a word of its encoding exchanged.
func lie(ts *testscript.TestScript, _ bool, args []string) {
	s := serviceOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proposal.Encoding = strings.ReplaceAll(s.proposal.Encoding, args[0], args[1])
	s.proposal.Document = strings.ReplaceAll(s.proposal.Document, args[0], args[1])
}
