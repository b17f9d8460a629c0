package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// Client is a login at a Vault that is kept alive. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client

	entering sync.Mutex // held while logging in, so that of many who find a token dead one does

	mu          sync.Mutex // guards what follows
	current     *login
	lastSuccess time.Time
	failing     error // of the newest call; nil when Vault answered it

	background context.Context // of the loops; ends with Close
	stop       context.CancelFunc
	loops      sync.WaitGroup
}

// login is one token.
type login struct {
	api      *api.Client
	life     life          // guarded by Client.mu
	replaced chan struct{} // closed when a newer one took its place
}

// ErrConfig: nothing was asked of Vault, because what the process was given is wrong.
var ErrConfig = errors.New("vault: this configuration is not used")

// Open logs in. An error that is neither ErrConfig nor ErrSpent may pass by itself: the
// caller tries again with the same Config, whose AppRole keeps what it opened.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if err := errors.Join(CheckAddress(cfg.Address), checkEnvironment()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	h, err := newHTTP(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c := &Client{cfg: cfg, http: h}
	if err := c.enter(ctx, nil); err != nil {
		return nil, fmt.Errorf("logging in at Vault: %w", err)
	}
	c.background, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.loops.Go(c.keep)
	return c, nil
}

// Close ends what runs in the background and revokes the token, and with it every
// lease; if Vault is away, they end by themselves.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	c.loops.Wait()
	defer c.http.CloseIdleConnections()
	return c.once(ctx, c.login(), func(ctx context.Context, l *login) error {
		return l.api.Auth().Token().RevokeSelfWithContext(ctx, "")
	})
}

// Expires returns when the token ends unless it is renewed.
func (c *Client) Expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.life.expires
}

// LastSuccess returns when Vault last did what it was asked.
func (c *Client) LastSuccess() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastSuccess
}

// Failing returns why Vault did not do what it was last asked, nil if it did.
func (c *Client) Failing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failing
}

func (c *Client) login() *login {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// do runs a call. If it is refused because the token is dead, the client logs in once
// and runs it again. A token that lives is refused by its policies, which no login changes.
func (c *Client) do(ctx context.Context, call func(context.Context, *login) error) error {
	l := c.login()
	err := c.once(ctx, l, call)
	if !status(err, http.StatusForbidden) || !status(c.alive(ctx, l), http.StatusForbidden) {
		return err
	}
	c.cfg.Logger.Warn("Vault refuses the token; logging in again")
	if err := c.enter(ctx, l); err != nil {
		return err
	}
	return c.once(ctx, c.login(), call)
}

// once runs a call within its time and notes how it ended.
func (c *Client) once(ctx context.Context, l *login, call func(context.Context, *login) error) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	err := call(ctx, l)
	c.note(err)
	return err
}

func (c *Client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing = err; err == nil {
		c.lastSuccess = time.Now()
	}
}

// alive asks whether a token still is one.
func (c *Client) alive(ctx context.Context, l *login) error {
	return c.once(ctx, l, func(ctx context.Context, l *login) error {
		_, err := l.api.Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
}

// enter logs in, unless somebody did since the caller saw old.
func (c *Client) enter(ctx context.Context, old *login) error {
	c.entering.Lock()
	defer c.entering.Unlock()
	if c.login() != old {
		return nil
	}
	l, err := c.newLogin(ctx)
	c.note(err)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.current = l
	c.mu.Unlock()
	if old != nil {
		close(old.replaced)
	}
	return nil
}

func (c *Client) newLogin(ctx context.Context) (*login, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	path, data, err := c.cfg.Auth.login(ctx, c)
	if err != nil {
		return nil, err
	}
	a, err := c.newAPI("")
	if err != nil {
		return nil, err
	}
	s, err := a.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return nil, err
	}
	if s == nil || s.Auth == nil || s.Auth.LeaseDuration <= 0 {
		return nil, errors.New("vault: the login gave no token that ends")
	}
	if a, err = c.newAPI(s.Auth.ClientToken); err != nil {
		return nil, err
	}
	return &login{api: a, life: newLife(s.Auth.LeaseDuration), replaced: make(chan struct{})}, nil
}

// status reports whether an error is an answer of Vault with this status.
func status(err error, code int) bool {
	var e *api.ResponseError
	return errors.As(err, &e) && e.StatusCode == code
}

// answered reports whether an error is Vault's own opinion of the request, and not a Vault
// that is sealed, busy or away.
func answered(err error) bool {
	var e *api.ResponseError
	return errors.As(err, &e) && e.StatusCode >= 400 && e.StatusCode < 500 && e.StatusCode != http.StatusTooManyRequests
}
