package server

import (
	"context"
	"net/http"

	"cardkms/api"
	"cardkms/kms"

	"github.com/danielgtaylor/huma/v2"
)

func (s *server) registerAudit() {
	at := func(id, path, summary string) route {
		return route{id: id, method: http.MethodGet, path: auditPath + path, tag: "audit", summary: summary, does: kms.AuditRead}
	}
	register(s, at("listAuditEntries", "/entries", "Read entries of the audit log"), s.auditEntries)
	register(s, at("getAuditProof", "/entries/{sequence}/proof", "Prove that the tree of a size holds an entry"), s.auditProof)
	register(s, at("getAuditCheckpoint", "/checkpoint", "Get a signed checkpoint of everything so far"), s.auditCheckpoint, func(op *huma.Operation) {
		op.Responses = map[string]*huma.Response{"200": {
			Description: "C2SP tlog-checkpoint.",
			Content:     map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}}
	})
}

type auditEntriesInput struct {
	From  int64 `query:"from" minimum:"0" default:"0" doc:"Sequence of the first entry."`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Entries at most."`
}

func (s *server) auditEntries(ctx context.Context, r kms.Request, in *auditEntriesInput) (*answer[api.AuditEntries], error) {
	leaves, err := s.svc.AuditEntries(ctx, r, in.From, in.Limit)
	out := api.AuditEntries{Entries: make([]api.AuditEntry, len(leaves)), Next: in.From + int64(len(leaves))}
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

type checkpointOutput struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (s *server) auditCheckpoint(ctx context.Context, r kms.Request, _ *nothing) (*checkpointOutput, error) {
	note, err := s.svc.AuditCheckpoint(ctx, r)
	return &checkpointOutput{"text/plain; charset=utf-8", note}, err
}
