package kms

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/explain"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// executing are the objects on which something is carried out, so that act runs once
// at a time for each of them.
type executing struct {
	mu sync.Mutex
	by map[string]bool
}

// begin reports whether nothing is executed on the object; then the caller does,
// until end.
func (x *executing) begin(object string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.by == nil {
		x.by = map[string]bool{}
	}
	free := !x.by[object]
	x.by[object] = true
	return free
}

func (x *executing) end(object string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.by, object)
}

// lease says which node executes on an object, and until when nobody else does. Within
// a node executing does the same.
//
// Its row stays when it was given back, without an end, because no row is ever deleted: one
// that is gone shows that somebody took it away, and the MAC of one that began again at
// version 1 would not tell it from its earlier selves. There is at most one for each proposal
// that was executed, and those stay as well.
type lease struct {
	Node  string    `json:"node"`
	Until time.Time `json:"until"`
}

// leaseFor is longer than any request lives. A node that dies holds others up as long.
const leaseFor = time.Minute

func leaseRef(object string) store.Ref {
	d := digestOf([]byte(object))
	return store.Ref{Kind: kindLease, ID: hex.EncodeToString(d[:])}
}

// leaseOf reads the lease of an object, and the version of its row.
func leaseOf(tx store.Rows, object string) (l lease, version int64, err error) {
	version, err = get(tx, leaseRef(object), &l)
	return l, version, err
}

// take takes the lease of an object, where there are several nodes.
func (s *Service) take(object string) func(store.Rows) error {
	return func(tx store.Rows) error {
		if s.cfg.Node == "" {
			return nil
		}
		l, n, err := leaseOf(tx, object)
		if err != nil {
			return err
		}
		now := s.cfg.Now().UTC()
		if l.Node != s.cfg.Node && now.Before(l.Until) {
			return fault.New(fault.Conflict, "an operation on this object is being executed on another node")
		}
		return put(tx, leaseRef(object), n, lease{s.cfg.Node, now.Add(leaseFor)})
	}
}

// taken refuses what this node took so long for that another one took the lease over.
func (s *Service) taken(tx store.Rows, object string) error {
	if s.cfg.Node == "" {
		return nil
	}
	l, _, err := leaseOf(tx, object)
	if err == nil && l.Node != s.cfg.Node {
		err = fault.New(fault.Conflict, "another node took over what this one took too long for")
	}
	return err
}

// give gives the lease back, if this node still has it.
func (s *Service) give(object string) func(store.Rows) error {
	return func(tx store.Rows) error {
		if s.cfg.Node == "" {
			return nil
		}
		l, n, err := leaseOf(tx, object)
		if err != nil || l.Node != s.cfg.Node {
			return err
		}
		return put(tx, leaseRef(object), n, lease{Node: s.cfg.Node})
	}
}

// Execute carries out an approved proposal, once. The entries are those of the
// operation, with the id of the proposal. Whoever gets no answer reads the case:
// in the state executed, everything happened; else nothing did but what act made,
// and the same call goes on from there.
func (s *Service) Execute(ctx context.Context, r Request, id string) (Case, error) {
	e, err := s.start(ctx, r, ApprovalExecute, r.Caller.Issuer, proposalObject(id))
	if err != nil {
		return Case{}, err
	}
	c, _, err := s.seen(ctx, r, id)
	if err != nil {
		return Case{}, s.refuse(ctx, e, err)
	}
	object := c.Proposal.Object
	if !s.running.begin(object) {
		return Case{}, s.refuse(ctx, e, fault.New(fault.Conflict, "an operation on this object is being executed"))
	}
	defer s.running.end(object)
	// Read again: what was executed on the object until now may have changed the case.
	if c, err = s.ready(ctx, r, id); err != nil {
		return Case{}, s.refuse(ctx, e, err)
	}
	e.op, e.object, e.issuer, e.alias, e.approved = Operation(c.Proposal.Operation), c.Proposal.Object, c.Proposal.Issuer, c.alias(), true
	e.detail = approval.ExecuteDetail(id, c.By)
	return s.execute(ctx, r, e, c.Proposal)
}

// ready returns a case that can be executed, as it will be then.
func (s *Service) ready(ctx context.Context, r Request, id string) (Case, error) {
	c, o, err := s.seen(ctx, r, id)
	if err != nil {
		return c, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		f, err := s.facts(tx, c)
		if err == nil {
			c.Case, err = c.Execute(o.Name, f)
		}
		return err
	})
	if err == nil {
		err = executors[c.Proposal.Operation].check(ctx, s, c.Proposal)
	}
	return c, err
}

// execute acts, and consumes the proposal in the transaction of its changes. That
// judges the case again: what was true before the act may have changed.
func (s *Service) execute(ctx context.Context, r Request, e event, p approval.Proposal) (Case, error) {
	x := executors[p.Operation]
	var acted any
	var err error
	if x.act != nil {
		if e.intent, err = s.intendAnd(ctx, e, s.take(p.Object)); fault.CodeOf(err) == fault.Conflict {
			return Case{}, s.refuse(ctx, e, err)
		} else if err != nil {
			return Case{}, err
		}
		e.last = s.give(p.Object)
		if acted, err = x.act(ctx, s, p); err != nil {
			return Case{}, s.refuse(ctx, e, err)
		}
	}
	found, told := acted.(explain.Explanation)
	// Also after an error: a commit whose answer was lost is a change too.
	defer s.forget()
	var done Case
	err = s.settle(ctx, e, func(tx store.Rows) error {
		if x.act != nil {
			if err := s.taken(tx, p.Object); err != nil {
				return err
			}
		}
		c, version, f, err := s.find(tx, r, p.ID)
		if err != nil {
			return err
		}
		o, err := f.Officers.Identified(r.Caller.ID, p.Issuer)
		if err != nil {
			return err
		}
		if c.Case, err = c.Execute(o.Name, f); err != nil {
			return err
		}
		if err := x.change(s, tx, p, acted); err != nil {
			return err
		}
		c.describe(f)
		if told {
			c.Found, e.detail["found"] = string(found), string(found)
		}
		c.Nonce, done = newID(), c
		return put(tx, caseRef(p.ID), version, c)
	})
	if err != nil {
		return Case{}, err
	}
	return done, nil
}

// forget has the next requests read what an executor may have changed.
func (s *Service) forget() {
	s.halt.forget()
	s.keys.forget()
	s.profiles.forget()
	s.suspensions.forget()
}
