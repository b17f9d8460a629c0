package client

import (
	"context"

	"cardkms/api"
)

// SecureOTAPacket secures one packet for one card.
func (c *Client) SecureOTAPacket(ctx context.Context, issuer string, p api.OTAPacket) (api.OTASecured, error) {
	return do[api.OTASecured](ctx, c, post(p, "issuers", issuer, "ota", "packets"))
}

// VerifyOTAResponse verifies a card's proof of receipt; one that does not verify is an
// *api.Problem with the code proof_failed.
func (c *Client) VerifyOTAResponse(ctx context.Context, issuer string, r api.OTAResponse) (api.OTAVerified, error) {
	return do[api.OTAVerified](ctx, c, post(r, "issuers", issuer, "ota", "responses:verify"))
}
