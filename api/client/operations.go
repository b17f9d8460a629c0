package client

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cardkms/api"
)

// OpenChannel starts a channel; its INITIALIZE UPDATE is for the card.
func (c *Client) OpenChannel(ctx context.Context, issuer string, in api.OpenChannel) (api.OpenedChannel, error) {
	return do[api.OpenedChannel](ctx, c, post(in, "issuers", issuer, "channels"))
}

// Authenticate gives the card's answer; its EXTERNAL AUTHENTICATE is for the card. A
// refusal ends the channel: a new one is opened, after RetryAfter of an api.Problem.
func (c *Client) Authenticate(ctx context.Context, issuer, channel string, in api.Authenticate) (api.AuthenticatedChannel, error) {
	k := post(in, "issuers", issuer, "channels", channel, ":authenticate").on(channel)
	k.ends = true
	return do[api.AuthenticatedChannel](ctx, c, k)
}

// Wrap secures a script of C-APDUs.
func (c *Client) Wrap(ctx context.Context, issuer, channel string, commands [][]byte) ([][]byte, error) {
	in := api.Commands{Commands: api.HexList(commands)}
	out, err := do[api.Commands](ctx, c, post(in, "issuers", issuer, "channels", channel, ":wrap").on(channel))
	return api.Bytes(out.Commands), err
}

// Unwrap checks and decrypts R-APDUs in the order of their commands.
func (c *Client) Unwrap(ctx context.Context, issuer, channel string, responses [][]byte) ([][]byte, error) {
	in := api.Responses{Responses: api.HexList(responses)}
	out, err := do[api.Responses](ctx, c, post(in, "issuers", issuer, "channels", channel, ":unwrap").on(channel))
	return api.Bytes(out.Responses), err
}

// CloseChannel ends a channel.
func (c *Client) CloseChannel(ctx context.Context, issuer, channel string) error {
	k := post(nil, "issuers", issuer, "channels", channel).on(channel)
	k.method = http.MethodDelete
	return c.do(ctx, k, nil)
}

// RegisterImage describes an image; UploadImage gives its content.
func (c *Client) RegisterImage(ctx context.Context, issuer string, in api.RegisterImage) (api.Image, error) {
	return do[api.Image](ctx, c, post(in, "issuers", issuer, "images"))
}

// Image returns one image.
func (c *Client) Image(ctx context.Context, issuer, image string) (api.Image, error) {
	return do[api.Image](ctx, c, get(nil, "issuers", issuer, "images", image))
}

// Images returns one page of images.
func (c *Client) Images(ctx context.Context, issuer string, p api.Page) (api.ImageList, error) {
	return do[api.ImageList](ctx, c, get(page(p), "issuers", issuer, "images"))
}

// CreatePackage makes or resumes a package for the card of a channel.
func (c *Client) CreatePackage(ctx context.Context, issuer string, in api.CreatePackage) (api.Package, error) {
	return do[api.Package](ctx, c, post(in, "issuers", issuer, "packages").on(in.Channel))
}

// Package returns one package.
func (c *Client) Package(ctx context.Context, issuer, id string) (api.Package, error) {
	return do[api.Package](ctx, c, get(nil, "issuers", issuer, "packages", id))
}

// PackageScript returns the secured commands of one step.
func (c *Client) PackageScript(ctx context.Context, issuer, id string, in api.PackageScript) ([][]byte, error) {
	out, err := do[api.Commands](ctx, c, post(in, "issuers", issuer, "packages", id, ":script").on(in.Channel))
	return api.Bytes(out.Commands), err
}

// ConfirmPackage gives the card's receipt.
func (c *Client) ConfirmPackage(ctx context.Context, issuer, id string, in api.ConfirmPackage) (api.Package, error) {
	return do[api.Package](ctx, c, post(in, "issuers", issuer, "packages", id, ":confirm").on(in.Channel))
}

// Card returns what is known of one card; kdd is 20 hexadecimal digits.
func (c *Client) Card(ctx context.Context, issuer, kdd string) (api.Card, error) {
	return do[api.Card](ctx, c, get(nil, "issuers", issuer, "cards", kdd))
}

// Cards returns one page of cards.
func (c *Client) Cards(ctx context.Context, issuer string, p api.Page) (api.CardList, error) {
	return do[api.CardList](ctx, c, get(page(p), "issuers", issuer, "cards"))
}

// Keys returns the key versions of an issuer.
func (c *Client) Keys(ctx context.Context, issuer string) ([]api.Key, error) {
	out, err := do[api.KeyList](ctx, c, get(nil, "issuers", issuer, "keys"))
	return out.Keys, err
}

// AuditEntries returns at most limit entries from a sequence on; limit 0 is the
// server's default.
func (c *Client) AuditEntries(ctx context.Context, from int64, limit int) (api.AuditEntries, error) {
	q := url.Values{"from": {strconv.FormatInt(from, 10)}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return do[api.AuditEntries](ctx, c, get(q, "audit", "entries"))
}

// AuditCheckpoint returns the newest signed checkpoint, a note.
func (c *Client) AuditCheckpoint(ctx context.Context) ([]byte, error) {
	return do[[]byte](ctx, c, get(nil, "audit", "checkpoint"))
}

// AuditWitnessed returns the newest checkpoint that witnesses have cosigned.
func (c *Client) AuditWitnessed(ctx context.Context) ([]byte, error) {
	return do[[]byte](ctx, c, get(url.Values{"witnessed": {"true"}}, "audit", "checkpoint"))
}

// AuditConsistency returns the proof that the tree of size newer starts with that
// of size older.
func (c *Client) AuditConsistency(ctx context.Context, older, newer int64) (api.AuditConsistency, error) {
	q := url.Values{"older": {strconv.FormatInt(older, 10)}, "newer": {strconv.FormatInt(newer, 10)}}
	return do[api.AuditConsistency](ctx, c, get(q, "audit", "consistency"))
}

// Report returns a signed report, a note. Zero times are the server's defaults.
func (c *Client) Report(ctx context.Context, name string, from, to time.Time) ([]byte, error) {
	q := url.Values{}
	for k, t := range map[string]time.Time{"from": from, "to": to} {
		if !t.IsZero() {
			q.Set(k, t.UTC().Format(time.RFC3339))
		}
	}
	return do[[]byte](ctx, c, get(q, "audit", "reports", name))
}

// AuditProof returns the proof that the tree of this size holds an entry.
func (c *Client) AuditProof(ctx context.Context, sequence, size int64) (api.AuditProof, error) {
	q := url.Values{"size": {strconv.FormatInt(size, 10)}}
	return do[api.AuditProof](ctx, c, get(q, "audit", "entries", strconv.FormatInt(sequence, 10), "proof"))
}

// Healthy reports whether the process answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/healthz"}, nil)
}

// Ready says what each token does while the service can work; an *api.Problem says why it
// cannot.
func (c *Client) Ready(ctx context.Context) (api.Health, error) {
	return do[api.Health](ctx, c, call{method: http.MethodGet, path: "/readyz"})
}

// OpenAPI returns the server's OpenAPI document.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return do[[]byte](ctx, c, get(nil, "openapi.yaml"))
}

func page(p api.Page) url.Values {
	q := url.Values{}
	if p.Size > 0 {
		q.Set("pageSize", strconv.Itoa(p.Size))
	}
	if p.Token != "" {
		q.Set("pageToken", p.Token)
	}
	return q
}

func newKey() string { return rand.Text() }
