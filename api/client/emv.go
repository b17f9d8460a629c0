package client

import (
	"context"

	"cardkms/api"
)

// VerifyARQC verifies an application cryptogram; one that does not verify is an
// *api.Problem with the code proof_failed.
func (c *Client) VerifyARQC(ctx context.Context, issuer string, t api.EMVTransaction) (api.EMVVerified, error) {
	return do[api.EMVVerified](ctx, c, post(t, "issuers", issuer, "emv", "arqc:verify"))
}

// AnswerARQC verifies an ARQC and returns its ARPC.
func (c *Client) AnswerARQC(ctx context.Context, issuer string, d api.EMVDecision) (api.EMVResponse, error) {
	return do[api.EMVResponse](ctx, c, post(d, "issuers", issuer, "emv", "arpc"))
}

// SecureEMVScript verifies an ARQC and returns its ARPC with a secured script.
func (c *Client) SecureEMVScript(ctx context.Context, issuer string, s api.EMVScript) (api.EMVSecured, error) {
	return do[api.EMVSecured](ctx, c, post(s, "issuers", issuer, "emv", "scripts"))
}
