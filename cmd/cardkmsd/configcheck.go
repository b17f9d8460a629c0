package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"cardkms/kms/channel"
	"cardkms/kms/key"
	"cardkms/kms/store/postgres"
)

// check returns everything that is wrong with the configuration, one problem to a
// line and always in the same order: whoever mends one must not find the next by
// trying again.
func (c *config) check() error {
	wrong := c.missing()
	wrong = append(wrong, c.checkTokens()...)
	wrong = append(wrong, c.beyond()...)
	if c.Profiles != nil {
		wrong = append(wrong, errors.New("profiles are registered by officers and not configured: take them out, and see deploy/profiles/README.md"))
	}
	if c.Anchors.File != "" && within(c.path(c.Anchors.File), c.path(c.Data)) {
		wrong = append(wrong, errors.New("anchors.file must not be in the data directory: whoever restores an older database there must not restore it too"))
	}
	wrong = append(append(wrong, c.wrongDatabase()...), c.wrongVault()...)
	for _, f := range []struct{ name, value string }{{"listen", c.Listen}, {"people.listen", c.People.Listen}} {
		if f.value == "" {
			continue // missing says so, or there is none
		}
		if err := checkListen(f.value); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	if c.Admin != "" {
		if _, _, err := c.adminAddress(); err != nil {
			wrong = append(wrong, err)
		}
	}
	wrong = append(wrong, c.wrongPeople()...)
	_, _, revoked := c.revoked()
	_, witnesses := c.witnesses()
	_, callers := c.callers()
	_, keys := c.releaseKeys()
	return errors.Join(append(wrong, revoked, witnesses, callers, keys)...)
}

// checkListen refuses what is no address to listen on.
func checkListen(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.DefaultResolver.LookupPort(context.Background(), "tcp", port) // a number, or a name as in /etc/services
	}
	if err != nil || port == "" {
		return fmt.Errorf("%q is not HOST:PORT with a port of at most 65535", address)
	}
	return nil
}

// wrongDatabase returns what is wrong with node and database. Several nodes share one
// log, so each needs a name; a connection that others can read or take over is none.
func (c *config) wrongDatabase() (wrong []error) {
	d := c.Database
	if d.URL == "" {
		if c.Node != "" || d != (databaseConfig{}) {
			wrong = append(wrong, errors.New("node and database are for PostgreSQL, which database.url names; a SQLite file has one node"))
		}
		return wrong
	}
	if !key.ValidName(c.Node) {
		wrong = append(wrong, errors.New("node is the name of this node, 1 to 63 lower-case letters, digits and hyphens, a letter first"))
	}
	if d.Password != "" && d.Credentials != "" {
		wrong = append(wrong, errors.New("database.password and database.credentials exclude each other"))
	}
	if d.Password != "" && checkReference(d.Password) != nil {
		wrong = append(wrong, fmt.Errorf("database.password: %w", errNoReference))
	}
	if d.Connections < 0 {
		wrong = append(wrong, errors.New("database.connections is not negative"))
	}
	if err := postgres.CheckURL(d.URL); err != nil {
		wrong = append(wrong, fmt.Errorf("database.url: %w", err))
	}
	return wrong
}

// missing names the fields that have no value and need one.
func (c *config) missing() (wrong []error) {
	for _, f := range []struct{ name, value string }{
		{"listen", c.Listen}, {"data", c.Data}, {"token.module", c.Token.Module}, {"token.label", c.Token.Label},
		{"token.pin", c.Token.PIN}, {"token.pseudonym.label", c.Token.Pseudonym.Label}, {"token.state.label", c.Token.State.Label},
		{"log.label", c.Log.Label}, {"log.origin", c.Log.Origin}, {"log.verifier", c.Log.Verifier}, {"anchors.file", c.Anchors.File},
		{"tls.clientCAs", c.TLS.ClientCAs},
	} {
		if f.value == "" {
			wrong = append(wrong, fmt.Errorf("%s is missing", f.name))
		}
	}
	if files := c.TLS.Certificate != "" && c.TLS.Key != ""; files == (c.TLS.Vault != nil) {
		wrong = append(wrong, errors.New("tls has certificate and key, or vault"))
	}
	return wrong
}

// beyond names the limits that are none.
func (c *config) beyond() (wrong []error) {
	l, most := c.Limits, channel.DefaultLimits()
	for _, f := range []struct {
		name     string
		is, most time.Duration
	}{
		{"answerWithin", l.AnswerWithin, most.AnswerWithin}, {"idle", l.Idle, most.Idle}, {"absolute", l.Absolute, most.Absolute},
	} {
		if f.is <= 0 || f.is > f.most {
			wrong = append(wrong, fmt.Errorf("limits.%s is above 0 and at most %s", f.name, f.most))
		}
	}
	for _, f := range []struct {
		name string
		is   int64
	}{{"channels", int64(l.Channels)}, {"requestsPerSecond", int64(l.RequestsPerSecond)}, {"imageBytes", l.ImageBytes}} {
		if f.is < 1 {
			wrong = append(wrong, fmt.Errorf("limits.%s is at least 1", f.name))
		}
	}
	if l.Drain < 0 || l.Drain > drainMax {
		wrong = append(wrong, fmt.Errorf("limits.drain is not negative and at most %s", drainMax))
	}
	if c.Anchors.TokenEvery < 0 {
		wrong = append(wrong, errors.New("anchors.tokenEvery is not negative"))
	}
	return wrong
}

// drainMax bounds limits.drain: service managers kill what does not stop.
const drainMax = time.Minute

// within reports whether a path lies in a directory.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
