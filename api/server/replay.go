package server

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"cardkms/kms/fault"
)

// replays keeps the answers of changes for clients whose connection broke before
// they had them. It lives in the memory of one process: a client that repeats a
// change on another node is told so by the object's own state, and what used up a counter
// of a card package kms gives again from there: prepared scripts, packets over the air and
// answers to EMV cryptograms.
//
// An answer is kept only for a change that happened. The oldest answers of a
// client go first, so that no client can push out those of another.
type replays struct {
	mu   sync.Mutex
	max  int           // for one client
	keep time.Duration // after the answer
	by   map[string]*callerReplays
}

// callerReplays are one client's slots; oldest first in order. Guarded by
// replays.mu.
type callerReplays struct {
	slots map[replayKey]*list.Element
	order *list.List
}

// replayKey names one change of one client.
type replayKey struct{ caller, route, key string }

// replaySlot is one change: under way, or done with an answer that nobody
// changes any more. Its fields but done and answer never change; those change
// once, under replays.mu, before anybody else can see them.
type replaySlot struct {
	key    replayKey
	digest [sha256.Size]byte
	done   bool
	answer any
	until  time.Time
}

func (s *replays) init(max int, keep time.Duration) {
	s.max, s.keep, s.by = max, keep, map[string]*callerReplays{}
}

// begin takes the slot of a change. The slot is done if the change happened
// already; otherwise the caller must end it.
func (s *replays) begin(k replayKey, digest [sha256.Size]byte, now time.Time) (replaySlot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.by[k.caller]
	if c == nil {
		c = &callerReplays{slots: map[replayKey]*list.Element{}, order: list.New()}
		s.by[k.caller] = c
	}
	c.forget(now)
	if e, ok := c.slots[k]; ok {
		have := e.Value.(*replaySlot)
		switch {
		case have.digest != digest:
			return replaySlot{}, fault.New(fault.IdempotencyMismatch, "this Idempotency-Key belongs to another request")
		case !have.done:
			return replaySlot{}, fault.New(fault.Conflict, "the first request under this Idempotency-Key is under way")
		}
		return *have, nil
	}
	if c.order.Len() >= s.max && !c.forgetOldest() {
		return replaySlot{}, fault.New(fault.RateLimited, "too many of your changes are under way")
	}
	slot := &replaySlot{key: k, digest: digest}
	c.slots[k] = c.order.PushBack(slot)
	return *slot, nil
}

// end keeps the answer of a change, or frees its key if there is none: the
// change did not happen and may be tried again.
func (s *replays) end(slot replaySlot, answer any, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.by[slot.key.caller]
	e := c.slots[slot.key]
	if answer == nil {
		c.remove(e)
		return
	}
	have := e.Value.(*replaySlot)
	have.done, have.answer, have.until = true, answer, now.Add(s.keep)
	c.order.MoveToBack(e)
}

func (c *callerReplays) remove(e *list.Element) {
	delete(c.slots, e.Value.(*replaySlot).key)
	c.order.Remove(e)
}

// forget drops what is too old. Slots that end later stand further back, except
// those under way, which stop the search early and are few.
func (c *callerReplays) forget(now time.Time) {
	for e := c.order.Front(); e != nil; e = c.order.Front() {
		s := e.Value.(*replaySlot)
		if !s.done || now.Before(s.until) {
			return
		}
		c.remove(e)
	}
}

// forgetOldest drops the oldest answer, to make room.
func (c *callerReplays) forgetOldest() bool {
	for e := c.order.Front(); e != nil; e = e.Next() {
		if e.Value.(*replaySlot).done {
			c.remove(e)
			return true
		}
	}
	return false
}
