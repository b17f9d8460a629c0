package server

import (
	"context"
	"net/http"
	"time"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/report"

	"github.com/danielgtaylor/huma/v2"
)

func (s *server) registerAudit() {
	at := func(id, path, summary string) route {
		return route{id: id, method: http.MethodGet, path: auditPath + path, tag: "audit", summary: summary, does: kms.AuditRead}
	}
	register(s, at("listAuditEntries", "/entries", "Read entries of the audit log"), s.auditEntries)
	register(s, at("getAuditProof", "/entries/{sequence}/proof", "Prove that the tree of a size holds an entry"), s.auditProof)
	register(s, at("getAuditConsistency", "/consistency", "Prove that the log has only grown"), s.auditConsistency)
	register(s, at("getAuditCheckpoint", "/checkpoint", "Get a signed checkpoint of everything so far"), s.auditCheckpoint, answersText("C2SP tlog-checkpoint."))
	rt := at("getReport", "/reports/{report}", "Make a signed report")
	rt.does = kms.ReportRead
	register(s, rt, s.report, answersText("C2SP signed-note whose text is the report in JSON."))
}

// answersText describes an answer that is a note.
func answersText(what string) func(*huma.Operation) {
	return func(op *huma.Operation) {
		op.Responses = map[string]*huma.Response{"200": {
			Description: what,
			Content:     map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}}
	}
}

type auditEntriesInput struct {
	From  int64 `query:"from" minimum:"0" default:"0" doc:"Sequence of the first entry."`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Entries at most."`
}

func (s *server) auditEntries(ctx context.Context, r kms.Request, in *auditEntriesInput) (*answer[api.AuditEntries], error) {
	leaves, err := s.svc.AuditEntries(ctx, r, in.From, in.Limit)
	out := api.AuditEntries{Entries: make([]api.AuditEntry, len(leaves)), Next: in.From + int64(len(leaves)), First: s.svc.AuditFirst()}
	for i, leaf := range leaves {
		out.Entries[i] = api.AuditEntry{Sequence: in.From + int64(i), Text: string(leaf)}
	}
	return answered(out), err
}

type auditProofInput struct {
	Sequence int64 `path:"sequence" minimum:"0" doc:"Sequence of the entry."`
	Size     int64 `query:"size" required:"true" minimum:"1" doc:"Entries in the tree, as a checkpoint says."`
}

func (s *server) auditProof(ctx context.Context, r kms.Request, in *auditProofInput) (*answer[api.AuditProof], error) {
	proof, err := s.svc.AuditProof(ctx, r, in.Sequence, in.Size)
	out := api.AuditProof{Sequence: in.Sequence, Size: in.Size, Hashes: make([]api.Hex, len(proof))}
	for i, h := range proof {
		out.Hashes[i] = h[:]
	}
	return answered(out), err
}

type auditConsistencyInput struct {
	Older int64 `query:"older" required:"true" minimum:"0" doc:"Size of the older tree."`
	Newer int64 `query:"newer" required:"true" minimum:"0" doc:"Size of the newer tree, as a checkpoint says."`
}

func (s *server) auditConsistency(ctx context.Context, r kms.Request, in *auditConsistencyInput) (*answer[api.AuditConsistency], error) {
	proof, err := s.svc.AuditGrowth(ctx, r, in.Older, in.Newer)
	out := api.AuditConsistency{Older: in.Older, Newer: in.Newer, Hashes: make([]api.Hex, len(proof))}
	for i, h := range proof {
		out.Hashes[i] = h[:]
	}
	return answered(out), err
}

// noteOutput is a signed note.
type noteOutput struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func noted(note []byte, err error) (*noteOutput, error) {
	return &noteOutput{"text/plain; charset=utf-8", note}, err
}

type auditCheckpointInput struct {
	Witnessed bool `query:"witnessed" doc:"The newest checkpoint that witnesses have cosigned, which may cover less."`
}

func (s *server) auditCheckpoint(ctx context.Context, r kms.Request, in *auditCheckpointInput) (*noteOutput, error) {
	return noted(s.svc.AuditCheckpoint(ctx, r, in.Witnessed))
}

type reportInput struct {
	Report string    `path:"report" enum:"inventory,cryptoperiods,access,algorithms,daily"`
	From   time.Time `query:"from" doc:"Begin of the period of an access, algorithms or daily report; default: 24 hours before its end."`
	To     time.Time `query:"to" doc:"End of the period; default: now."`
}

func (s *server) report(ctx context.Context, r kms.Request, in *reportInput) (*noteOutput, error) {
	if in.To.IsZero() {
		in.To = time.Now()
	}
	if in.From.IsZero() {
		in.From = in.To.Add(-24 * time.Hour)
	}
	return noted(s.svc.Report(ctx, r, kms.ReportInput{Name: report.Name(in.Report), From: in.From, To: in.To}))
}
