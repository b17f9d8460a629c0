package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// Database keeps dynamic credentials of a database valid. It is safe for concurrent use.
type Database struct {
	client *Client
	path   string // database/creds/ROLE

	mu             sync.Mutex // guards what follows
	user, password string
	life           life
	changed        func()

	of *login // whose lease it is: it dies with that token; owned by keep, as id
	id string // of the lease
}

// Database returns credentials of a role, path being database/creds/ROLE, and keeps them
// until Close.
func (c *Client) Database(ctx context.Context, path string) (*Database, error) {
	d := &Database{client: c, path: path, changed: func() {}}
	if err := d.get(ctx); err != nil {
		return nil, err
	}
	c.loops.Go(d.keep)
	return d, nil
}

// Credentials returns what the next connection logs in with.
func (d *Database) Credentials(context.Context) (user, password string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.user, d.password, nil
}

// OnChange has f called when there are other credentials, and once now: they may have
// changed already. Those before stay good for a fifth of their life, or for none if the
// token was revoked.
func (d *Database) OnChange(f func()) {
	d.mu.Lock()
	d.changed = f
	d.mu.Unlock()
	f()
}

// Expires returns when the credentials end unless they are renewed.
func (d *Database) Expires() time.Time { return d.lifeNow().expires }

func (d *Database) lifeNow() life {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.life
}

func (d *Database) keep() {
	var failures BackOff
	pause, early := d.lifeNow().pause(), d.of.replaced
	for d.client.sleep(pause, early) {
		err := d.tend(d.client.background)
		switch {
		case err == nil:
			failures, pause, early = BackOff{}, d.lifeNow().pause(), d.of.replaced
		case d.client.background.Err() == nil:
			d.client.cfg.Logger.Warn("the database credentials could not be renewed; trying again", slog.Time("expires", d.Expires()), slog.Any("error", err))
			pause, early = failures.Next(), nil // the login stays replaced
		}
	}
}

// tend renews the lease, or gets other credentials when it can be renewed no longer, is
// gone, or belongs to a token that is not ours any more.
func (d *Database) tend(ctx context.Context) error {
	if d.of == d.client.login() && !d.lifeNow().ending() {
		err := d.renew(ctx)
		if err != nil && !answered(err) {
			return err
		}
		if err == nil && !d.lifeNow().ending() {
			return nil
		}
	}
	if err := d.get(ctx); err != nil {
		return err
	}
	d.client.cfg.Logger.Info("new database credentials", slog.Time("expires", d.Expires()))
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	changed()
	return nil
}

func (d *Database) renew(ctx context.Context) error {
	return d.client.do(ctx, func(ctx context.Context, l *login) error {
		s, err := l.api.Sys().RenewWithContext(ctx, d.id, 0)
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.life.expires = time.Now().Add(time.Duration(s.LeaseDuration) * time.Second)
		return nil
	})
}

func (d *Database) get(ctx context.Context) error {
	var s *api.Secret
	var of *login
	err := d.client.do(ctx, func(ctx context.Context, l *login) (err error) {
		of = l
		s, err = l.api.Logical().ReadWithContext(ctx, d.path)
		return err
	})
	if err != nil {
		return fmt.Errorf("getting database credentials from Vault: %w", err)
	}
	if s == nil || s.LeaseDuration <= 0 {
		return fmt.Errorf("getting database credentials from Vault: %s gave no lease", d.path)
	}
	user, _ := s.Data["username"].(string)
	password, _ := s.Data["password"].(string)
	if user == "" || password == "" {
		return errors.New("vault: the lease holds no user name and password")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of, d.id = of, s.LeaseID
	d.user, d.password, d.life = user, password, newLife(s.LeaseDuration)
	return nil
}
