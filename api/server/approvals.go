package server

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/approval"
)

func (s *server) registerApprovals() {
	at := func(id, method, path, summary string, does kms.Operation) route {
		return route{id: id, method: method, path: path, tag: "approvals", summary: summary, does: does, keyed: method == http.MethodPost, kept: method == http.MethodPost}
	}
	register(s, at("propose", http.MethodPost, proposalsPath, "Propose an operation, or preview a proposal", kms.ApprovalPropose), s.propose)
	register(s, at("listProposals", http.MethodGet, proposalsPath, "List proposals", kms.ApprovalRead), s.listProposals)
	register(s, at("getProposal", http.MethodGet, proposalPath, "Get a proposal and what was decided", kms.ApprovalRead), s.getProposal)
	register(s, at("approveProposal", http.MethodPost, proposalPath+":approve", "Approve a proposal with a signature", kms.ApprovalApprove), s.approveProposal)
	register(s, at("rejectProposal", http.MethodPost, proposalPath+":reject", "Reject a proposal with a signature; it ends", kms.ApprovalReject), s.rejectProposal)
	register(s, at("executeProposal", http.MethodPost, proposalPath+":execute", "Carry out an approved proposal, once", kms.ApprovalExecute), s.executeProposal)
	register(s, at("getControl", http.MethodGet, api.Prefix+"/officers", "Get the officers and the policies", kms.ApprovalRead), s.control)
	register(s, at("listSuspended", http.MethodGet, api.Prefix+"/clients", "List the clients that are suspended", kms.ClientRead), s.listSuspended)
	register(s, at("suspendClient", http.MethodPost, api.Prefix+"/clients:suspend", "Refuse a client everything; officers resume it by an approved proposal", kms.ClientSuspend), s.suspendClient)
	register(s, at("haltSystem", http.MethodPost, api.Prefix+"/system:halt", "Stop all use of keys; officers resume it by an approved proposal", kms.SystemHalt), s.haltSystem)
}

// lifeDefault is how long a proposal lives that asks for nothing else.
const lifeDefault = 24 * time.Hour

type proposeInput struct {
	Change
	Body api.Propose
}

func (s *server) propose(ctx context.Context, r kms.Request, in *proposeInput) (*answer[api.Proposal], error) {
	b := in.Body
	c, err := s.svc.Propose(ctx, r, kms.ProposeInput{
		Issuer: b.Issuer, Operation: b.Operation, Object: b.Object, Params: b.Params, Document: b.Document, Expected: b.ExpectedVersion,
		Life: cmp.Or(time.Duration(b.LifeSeconds)*time.Second, lifeDefault), Preview: b.ValidateOnly,
	})
	if err != nil {
		return nil, err
	}
	return proposalOf(c)
}

type listProposalsInput struct{ Paged }

func (s *server) listProposals(ctx context.Context, r kms.Request, in *listProposalsInput) (*answer[api.ProposalList], error) {
	after, err := cursor(in.PageToken)
	if err != nil {
		return nil, err
	}
	all, next, err := s.svc.Proposals(ctx, r, after, in.PageSize)
	out := api.ProposalList{Proposals: make([]api.Proposal, len(all)), NextPageToken: token(next)}
	for i, c := range all {
		p, err := proposalOf(c)
		if err != nil {
			return nil, err
		}
		out.Proposals[i] = p.Body
		out.Proposals[i].Document = ""
	}
	return answered(out), err
}

// OfProposal names a proposal.
type OfProposal struct {
	Proposal string `path:"proposal" pattern:"^[0-9a-f]{32}$" doc:"Id of the proposal."`
}

type getProposalInput struct{ OfProposal }

func (s *server) getProposal(ctx context.Context, r kms.Request, in *getProposalInput) (*answer[api.Proposal], error) {
	c, err := s.svc.Proposal(ctx, r, in.Proposal)
	if err != nil {
		return nil, err
	}
	return proposalOf(c)
}

type decideInput struct {
	Change
	OfProposal
	Body api.Decide
}

func (s *server) approveProposal(ctx context.Context, r kms.Request, in *decideInput) (*answer[api.Proposal], error) {
	return s.decide(ctx, r, in, approval.Approve)
}

func (s *server) rejectProposal(ctx context.Context, r kms.Request, in *decideInput) (*answer[api.Proposal], error) {
	return s.decide(ctx, r, in, approval.Reject)
}

func (s *server) decide(ctx context.Context, r kms.Request, in *decideInput, d approval.Decision) (*answer[api.Proposal], error) {
	c, err := s.svc.Decide(ctx, r, kms.DecideInput{ID: in.Proposal, Decision: d, Signature: in.Body.Signature})
	if err != nil {
		return nil, err
	}
	return proposalOf(c)
}

type executeInput struct {
	Change
	OfProposal
	Body struct{}
}

func (s *server) executeProposal(ctx context.Context, r kms.Request, in *executeInput) (*answer[api.Proposal], error) {
	c, err := s.svc.Execute(ctx, r, in.Proposal)
	if err != nil {
		return nil, err
	}
	return proposalOf(c)
}

func proposalOf(c kms.Case) (*answer[api.Proposal], error) {
	p := c.Proposal
	encoding, err := p.Encode()
	if err != nil {
		return nil, err
	}
	out := api.Proposal{
		ID: p.ID, Issuer: p.Issuer, Operation: p.Operation, Object: p.Object, Subject: c.Subject, Params: p.Params,
		ExpectedVersion: p.Expected, Proposer: p.Proposer, Created: p.Created, Expires: p.Expires, Encoding: string(encoding),
		State: string(c.Now), Required: c.Required, Counted: c.Counted, Decisions: []api.Decision{}, Found: c.Found, Document: c.Document, EndedBy: c.By, Ended: c.Ended,
	}
	for _, a := range c.Approvals {
		out.Decisions = append(out.Decisions, api.Decision{Officer: a.Officer, Decision: string(a.Decision), Time: a.Time, Signature: a.Signature})
	}
	return answered(out), nil
}

func (s *server) control(ctx context.Context, r kms.Request, _ *nothing) (*answer[api.Control], error) {
	c, err := s.svc.Control(ctx, r)
	out := api.Control{
		Officers: []api.Officer{}, Policies: []api.Policy{},
		GlassUntil: c.Glass.Until, Unreviewed: c.Glass.Unreviewed > 0,
	}
	for _, o := range c.Officers {
		out.Officers = append(out.Officers, api.Officer{Name: o.Name, Identity: o.Identity, Public: api.Hex(o.Public), Issuer: o.Issuer, State: string(o.State)})
	}
	for _, p := range c.Policies {
		out.Policies = append(out.Policies, api.Policy{Operation: p.Operation, K: p.K})
	}
	return answered(out), err
}

func suspensionOf(p kms.Suspension) api.Suspension {
	return api.Suspension{Client: p.Client, By: p.By, Since: p.Since}
}

func (s *server) listSuspended(ctx context.Context, r kms.Request, _ *nothing) (*answer[api.SuspensionList], error) {
	all, err := s.svc.Suspensions(ctx, r)
	out := api.SuspensionList{Clients: make([]api.Suspension, len(all))}
	for i, p := range all {
		out.Clients[i] = suspensionOf(p)
	}
	return answered(out), err
}

type suspendClientInput struct {
	Change
	Body api.SuspendClient
}

func (s *server) suspendClient(ctx context.Context, r kms.Request, in *suspendClientInput) (*answer[api.Suspension], error) {
	p, err := s.svc.SuspendClient(ctx, r, in.Body.Client)
	return answered(suspensionOf(p)), err
}

type haltInput struct {
	Change
	Body struct{}
}

func (s *server) haltSystem(ctx context.Context, r kms.Request, _ *haltInput) (*answer[api.System], error) {
	return answered(api.System{Halted: true}), s.svc.Halt(ctx, r)
}
