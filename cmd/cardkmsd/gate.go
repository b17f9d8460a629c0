package main

import (
	"net/http"
	"sync"

	"cardkms/api/server"
	"cardkms/kms"
	"cardkms/kms/fault"
)

// gate counts the handlers that run, and keeps more from beginning once it is shut: a
// connection that outlives the shutdown of its server may still bring a request.
type gate struct {
	mu   sync.Mutex
	shut bool
	busy sync.WaitGroup
}

// enter reports whether a handler may run. Then it leaves by busy.Done.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		g.busy.Add(1)
	}
	return !g.shut
}

// close returns when no handler runs, and none will.
func (g *gate) close() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.busy.Wait()
}

// around is a handler that runs only while the gate is open.
func (g *gate) around(inner http.Handler) http.Handler {
	stopping := server.Sealed(func() *fault.Error { return kms.ErrStopping })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			stopping.ServeHTTP(w, r)
			return
		}
		defer g.busy.Done()
		inner.ServeHTTP(w, r)
	})
}
