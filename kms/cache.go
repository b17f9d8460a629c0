package kms

import (
	"sync"
	"time"
)

// cacheFor bounds how long a change by another process goes unnoticed.
const cacheFor = time.Second / 2

// issuerCache keeps for a moment what every authentication needs of an issuer, and what
// hardly ever changes: key versions, card profiles.
type issuerCache[T any] struct {
	mu       sync.Mutex
	byIssuer map[string]cached[T]
	// round counts what this process changed. What was read before a change is not
	// kept after it: else a suspended version would go on for a moment.
	round int64
}

type cached[T any] struct {
	at    time.Time
	value T
}

// forget has the next request read again.
func (c *issuerCache[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if staleCache {
		return
	}
	c.byIssuer, c.round = nil, c.round+1
}

// get returns what is kept of an issuer, at most cacheFor old, or reads it. read gets what
// was kept before.
func (c *issuerCache[T]) get(now time.Time, issuer string, read func(before T) (T, error)) (T, error) {
	c.mu.Lock()
	have, ok := c.byIssuer[issuer]
	round := c.round
	c.mu.Unlock()
	if age := now.Sub(have.at); ok && age >= 0 && age < cacheFor {
		return have.value, nil
	}
	value, err := read(have.value)
	if err != nil {
		return value, err
	}
	c.keep(issuer, cached[T]{now, value}, round)
	return value, nil
}

// keep stores what was read in a round, if that is not over.
func (c *issuerCache[T]) keep(issuer string, read cached[T], round int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round != round {
		return
	}
	if c.byIssuer == nil || len(c.byIssuer) > 10_000 {
		c.byIssuer = map[string]cached[T]{}
	}
	c.byIssuer[issuer] = read
}
