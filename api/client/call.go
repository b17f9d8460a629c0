package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cardkms/api"
)

const (
	// answerBytesMax bounds a JSON answer in memory.
	answerBytesMax = 32 << 20
	// waitMax bounds how long a call waits because the server asked for it.
	waitMax = 5 * time.Second
)

// call is one request before it is sent.
type call struct {
	method string
	path   string
	query  url.Values
	in     any    // JSON body; nil for none
	key    string // Idempotency-Key; empty for none
	node   string // that the channel is on; empty for any
	// ends: a refusal ends the channel that the call is about, so that only a call whose
	// answer was lost is repeated.
	ends bool
}

// on returns the call for the node that a channel is on.
func (k call) on(channel string) call {
	if node, _, ok := strings.Cut(channel, "."); ok {
		k.node = node
	}
	return k
}

// path joins escaped segments below the API's prefix. A segment that starts with
// a colon is a verb of the one before.
func path(segments ...string) string {
	p := api.Prefix
	for _, s := range segments {
		if s[:min(1, len(s))] == ":" {
			p += s
			continue
		}
		p += "/" + url.PathEscape(s)
	}
	return p
}

func get(query url.Values, segments ...string) call {
	return call{method: http.MethodGet, path: path(segments...), query: query}
}

// post is a change, under an Idempotency-Key of its own.
func post(in any, segments ...string) call {
	return call{method: http.MethodPost, path: path(segments...), in: in, key: newKey()}
}

// do sends a call and decodes its answer into out, nil for none. It repeats the
// call once: it is a GET, or the key makes it happen once.
func (c *Client) do(ctx context.Context, k call, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var body []byte
	if k.in != nil {
		var err error
		if body, err = json.Marshal(k.in); err != nil {
			return fmt.Errorf("client: encoding a request: %w", err)
		}
	}
	err := c.once(ctx, k, body, out)
	wait, again := retry(k, err)
	if !again || !sleep(ctx, wait) {
		return err
	}
	return c.once(ctx, k, body, out)
}

// do is Client.do for an answer of one type.
func do[T any](ctx context.Context, c *Client, k call) (out T, err error) {
	err = c.do(ctx, k, &out)
	return out, err
}

// retry says whether a failure is worth one more try, and after which time.
func retry(k call, err error) (time.Duration, bool) {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.RetryAfter, !k.ends && p.Code.Temporary() && p.RetryAfter > 0 && p.RetryAfter <= waitMax
	}
	var broken *url.Error
	return 0, errors.As(err, &broken) || errors.Is(err, errLost)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

func (c *Client) once(ctx context.Context, k call, body []byte, out any) error {
	req, err := c.request(ctx, k, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if k.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decode(resp, out)
}

func (c *Client) request(ctx context.Context, k call, body io.Reader) (*http.Request, error) {
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("client: making a request: %w", err)
	}
	if c.bearer != "" {
		token, err := readBearer(c.bearer)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("User-Agent", c.userAgent)
	if k.key != "" {
		req.Header.Set(api.HeaderIdempotencyKey, k.key)
	}
	if k.node != "" {
		req.Header.Set(api.HeaderNode, k.node)
	}
	return req, nil
}

// send returns an answer of success; every other is an error and closed.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal reads a Problem; an answer that is none does not come from this API.
func refusal(resp *http.Response) error {
	p := &api.Problem{}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(p)
	if err != nil || media != api.ProblemType || p.Code == "" {
		err := fmt.Errorf("client: the server answered %s, which is not an answer of this API", resp.Status)
		if resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout {
			err = fmt.Errorf("%w: %w", errLost, err) // a load balancer whose node is gone
		}
		return err
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	return p
}

// errLost: the server may have answered, and the answer did not arrive whole.
var errLost = errors.New("client: the answer was lost")

// Interrupted reports whether an error came of a node that went away, or of one that
// cannot do its work now: on a new channel the same may succeed.
func Interrupted(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code == api.WrongNode || p.Code == api.ChannelClosed || p.Code.Temporary()
	}
	_, broken := retry(call{}, err)
	return broken
}

// decode reads a whole answer, so that the connection can be used again.
func decode(resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("client: reading an answer: %w", err)
	}
	return nil
}
