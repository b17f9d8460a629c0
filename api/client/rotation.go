package client

import (
	"context"
	"strconv"

	"cardkms/api"
)

// ChangeKeys makes the PUT KEY that adds the newest keys to the card of a channel.
func (c *Client) ChangeKeys(ctx context.Context, issuer, channel string) (api.ChangedKeys, error) {
	return do[api.ChangedKeys](ctx, c, post(struct{}{}, "issuers", issuer, "channels", channel, ":changeKeys").on(channel))
}

// ConfirmKeys gives the card's answer to PUT KEY.
func (c *Client) ConfirmKeys(ctx context.Context, issuer, channel string, response []byte) (api.Card, error) {
	return do[api.Card](ctx, c, post(api.ConfirmKeys{Response: response}, "issuers", issuer, "channels", channel, ":confirmKeys").on(channel))
}

// RetireKeys makes the DELETE that takes a card's former keys away.
func (c *Client) RetireKeys(ctx context.Context, issuer, channel string, kvn byte) ([]byte, error) {
	out, err := do[api.Command](ctx, c, post(api.RetireKeys{KVN: api.HexByte(kvn)}, "issuers", issuer, "channels", channel, ":retireKeys").on(channel))
	return out.Command, err
}

// Rotation returns how far a key's cards have come.
func (c *Client) Rotation(ctx context.Context, issuer, key string) (api.Rotation, error) {
	return do[api.Rotation](ctx, c, get(nil, "issuers", issuer, "keys", key, "rotation"))
}

// ImportCards takes personalised cards into the registry, at most 5,000 at a time,
// and returns how many were not there.
func (c *Client) ImportCards(ctx context.Context, issuer, key string, cards []api.ImportedCard) (int64, error) {
	out, err := do[api.ImportedCards](ctx, c, post(api.ImportCards{Cards: cards}, "issuers", issuer, "keys", key, "cards:import"))
	return out.Added, err
}

// Radius returns what hangs on a key version.
func (c *Client) Radius(ctx context.Context, issuer, key string, version int) (api.Radius, error) {
	return do[api.Radius](ctx, c, get(nil, "issuers", issuer, "keys", key, "versions", strconv.Itoa(version), "radius"))
}

// SuspendKey stops every use of a key version at once.
func (c *Client) SuspendKey(ctx context.Context, issuer, key string, version int) (api.Key, error) {
	return do[api.Key](ctx, c, post(struct{}{}, "issuers", issuer, "keys", key, "versions", strconv.Itoa(version), ":suspend"))
}
