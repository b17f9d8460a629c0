package client

import (
	"context"

	"cardkms/api"
)

// Propose proposes an operation, or previews a proposal.
func (c *Client) Propose(ctx context.Context, in api.Propose) (api.Proposal, error) {
	return do[api.Proposal](ctx, c, post(in, "proposals"))
}

// Proposal returns a proposal and what was decided about it.
func (c *Client) Proposal(ctx context.Context, id string) (api.Proposal, error) {
	return do[api.Proposal](ctx, c, get(nil, "proposals", id))
}

// Proposals returns one page of proposals.
func (c *Client) Proposals(ctx context.Context, p api.Page) (api.ProposalList, error) {
	return do[api.ProposalList](ctx, c, get(page(p), "proposals"))
}

// Approve approves a proposal; signature is the officer's.
func (c *Client) Approve(ctx context.Context, id string, signature []byte) (api.Proposal, error) {
	return do[api.Proposal](ctx, c, post(api.Decide{Signature: signature}, "proposals", id, ":approve"))
}

// Reject rejects a proposal; signature is the officer's.
func (c *Client) Reject(ctx context.Context, id string, signature []byte) (api.Proposal, error) {
	return do[api.Proposal](ctx, c, post(api.Decide{Signature: signature}, "proposals", id, ":reject"))
}

// Execute carries out an approved proposal.
func (c *Client) Execute(ctx context.Context, id string) (api.Proposal, error) {
	return do[api.Proposal](ctx, c, post(struct{}{}, "proposals", id, ":execute"))
}

// Control returns the officers and the policies.
func (c *Client) Control(ctx context.Context) (api.Control, error) {
	return do[api.Control](ctx, c, get(nil, "officers"))
}

// SuspendClient refuses a client everything.
func (c *Client) SuspendClient(ctx context.Context, in api.SuspendClient) (api.Suspension, error) {
	return do[api.Suspension](ctx, c, post(in, "clients", ":suspend"))
}

// Suspensions returns the clients that are suspended.
func (c *Client) Suspensions(ctx context.Context) ([]api.Suspension, error) {
	out, err := do[api.SuspensionList](ctx, c, get(nil, "clients"))
	return out.Clients, err
}

// Halt stops all use of keys.
func (c *Client) Halt(ctx context.Context) (api.System, error) {
	return do[api.System](ctx, c, post(struct{}{}, "system", ":halt"))
}
