package client

import (
	"context"
	"net/url"
	"strconv"

	"cardkms/api"
)

// Profiles returns the newest versions of an issuer's card profiles.
func (c *Client) Profiles(ctx context.Context, issuer string) ([]api.CardProfile, error) {
	out, err := do[api.CardProfileList](ctx, c, get(nil, "issuers", issuer, "profiles"))
	return out.Profiles, err
}

// Profile returns one version of a card profile, and the newest for 0.
func (c *Client) Profile(ctx context.Context, issuer, name string, version int) (api.CardProfile, error) {
	return do[api.CardProfile](ctx, c, get(url.Values{"version": {strconv.Itoa(version)}}, "issuers", issuer, "profiles", name))
}
