package vaulttest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy is a way to a server that can fail while the server does not.
type Proxy struct {
	t     testing.TB
	inner *toxiproxy.Proxy
}

// Proxy makes a way to this server.
func (s *Server) Proxy() *Proxy {
	s.t.Helper()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{s.t, toxiproxy.NewProxy(api, "vault", "127.0.0.1:0", s.Address())}
	p.Up()
	s.t.Cleanup(p.inner.Stop)
	return p
}

// URL returns the address that a client is given.
func (p *Proxy) URL() string { return "https://" + p.inner.Listen }

// Down refuses connections and cuts those that are there.
func (p *Proxy) Down() { p.inner.Stop() }

// Up undoes Down.
func (p *Proxy) Up() {
	p.t.Helper()
	if err := p.inner.Start(); err != nil {
		p.t.Fatal(err)
	}
}

const slow = "slow"

// Slow delays every answer.
func (p *Proxy) Slow(by time.Duration) {
	p.t.Helper()
	toxic := fmt.Sprintf(`{"name": %q, "type": "latency", "stream": "downstream", "attributes": {"latency": %d}}`, slow, by.Milliseconds())
	if _, err := p.inner.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		p.t.Fatal(err)
	}
}

// Quick undoes Slow.
func (p *Proxy) Quick() {
	p.t.Helper()
	if err := p.inner.Toxics.RemoveToxic(context.Background(), slow); err != nil {
		p.t.Fatal(err)
	}
}
