package vault

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"
)

// life is how long something was granted, and when it ends.
type life struct {
	full    time.Duration // at the first grant
	expires time.Time
}

func newLife(seconds int) life {
	full := time.Duration(seconds) * time.Second
	return life{full, time.Now().Add(full)}
}

// ending reports whether less than a fifth of the life is left: what can still be
// renewed then ends soon all the same, because it reached the most that it may live.
func (l life) ending() bool { return time.Until(l.expires) < l.full/5 }

// pause returns when to renew: between a half and two thirds of what is left, so that the
// nodes that started together do not ask together.
func (l life) pause() time.Duration {
	left := max(time.Until(l.expires), 0)
	return left/2 + jitter(left/6)
}

// jitter returns a random time below most.
func jitter(most time.Duration) time.Duration {
	return time.Duration(rand.Int64N(int64(most) + 1)) //nolint:gosec // spreads load, hides nothing
}

const (
	backOffMin = 500 * time.Millisecond
	backOffMax = 30 * time.Second
)

// BackOff is the pause after a failure: twice the one before, from 0.5 to 30 seconds,
// less up to a half. Its zero value begins.
type BackOff struct{ last time.Duration }

// Next returns the next pause.
func (b *BackOff) Next() time.Duration {
	b.last = min(max(2*b.last, backOffMin), backOffMax)
	return b.last/2 + jitter(b.last/2)
}

// lookEvery is how often a token is looked at that need not be renewed yet: one that was
// revoked took the database credentials with it.
const lookEvery = 10 * time.Second

// keep keeps the client logged in until Close.
func (c *Client) keep() {
	var failures BackOff
	due := time.Now().Add(c.lifeOf(c.login()).pause())
	for pause := min(time.Until(due), lookEvery); c.sleep(pause, nil); {
		err := c.tend(c.background, due)
		switch {
		case err != nil && c.background.Err() == nil:
			c.cfg.Logger.Warn("the login at Vault could not be kept; trying again", slog.Time("expires", c.Expires()), slog.Any("error", err))
			pause, due = failures.Next(), time.Now() // renew as soon as it can be
			continue
		case !time.Now().Before(due):
			due = time.Now().Add(c.lifeOf(c.login()).pause())
		}
		failures, pause = BackOff{}, min(time.Until(due), lookEvery)
	}
}

// sleep waits for a time or, if it ends earlier, a channel; false says that the client is
// closed.
func (c *Client) sleep(pause time.Duration, early <-chan struct{}) bool {
	select {
	case <-c.background.Done():
		return false
	case <-early:
	case <-time.After(pause):
	}
	return true
}

func (c *Client) lifeOf(l *login) life {
	c.mu.Lock()
	defer c.mu.Unlock()
	return l.life
}

// tend looks at the token, or renews it when that is due, and logs in again when it is
// dead or can be renewed no longer.
func (c *Client) tend(ctx context.Context, due time.Time) error {
	l := c.login()
	if c.lifeOf(l).ending() {
		return c.enter(ctx, l)
	}
	var err error
	if time.Now().Before(due) {
		err = c.alive(ctx, l)
	} else {
		err = c.renew(ctx, l)
	}
	if status(err, http.StatusForbidden) || err == nil && c.lifeOf(l).ending() {
		return c.enter(ctx, l)
	}
	return err
}

func (c *Client) renew(ctx context.Context, l *login) error {
	return c.once(ctx, l, func(ctx context.Context, l *login) error {
		s, err := l.api.Auth().Token().RenewSelfWithContext(ctx, 0)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		l.life.expires = time.Now().Add(time.Duration(s.Auth.LeaseDuration) * time.Second)
		return nil
	})
}
