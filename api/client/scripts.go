package client

import (
	"context"

	"cardkms/api"
)

// PrepareScripts secures one script for cards that are not there.
func (c *Client) PrepareScripts(ctx context.Context, issuer string, in api.PrepareScripts) ([]api.PreparedScript, error) {
	out, err := do[api.PreparedScripts](ctx, c, post(in, "issuers", issuer, "scripts:prepare"))
	return out.Scripts, err
}
