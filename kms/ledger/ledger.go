// Package ledger is all that the service trusts its database with: it makes each
// change and the entry that tells of it durable together, or neither, and it
// finds out when the database is not what it wrote.
//
// Entries, tree and checkpoints are those of package audit, the state map that of
// package statemap; they live in a store.Store, in the same transaction as the
// change. Changes of concurrent callers are gathered into one transaction, so that
// each pays a share of one fsync. One goroutine writes; it keeps the edge of the
// tree and the state map in memory, so that appending reads nothing of the log.
//
// # What protects the database
//
//	MAC of a row    made in the token over its name, version and body; says which
//	                row was forged
//	state map       one digest of all rows, kept up to date with every change; a row
//	                that is read is compared with it
//	head            size and root of log and state map after every group, with a MAC
//	                made in the token; its form is specified in head.go
//	checkpoint      the same, signed in the token, for those who do not trust it;
//	                carries the state map's root as the line "state BASE64", the time
//	                as "time RFC3339" and what Config.Extensions adds
//	anchors         the newest checkpoint outside the database: a file, an object in
//	                the token
//	witnesses       cosign checkpoints, and refuse one that does not follow the last
//
// At Open, and every Config.GuardEvery after it, all of these are compared with
// each other and with every row and entry. A row that was forged, changed,
// exchanged, put back or deleted is refused with fault.ObjectTampered, when it is
// read and when it is found. A log that was changed or cut, an older database,
// and a second copy of the service that writes seal the ledger: every call is
// fault.RollbackDetected until a process opens a database that is right, or
// opens it with Config.Restore.
//
// It leaves out what entries and rows mean and who may change them.
//
// Entries are dated by Config.Now and never before the one that they follow. A clock that
// is behind the newest entry, or that jumped, dates none: every change is
// fault.ClockUnsafe until the clock is right again, and Open fails.
//
// It promises: when Do returns nil, its entry and its row changes survive the
// loss of power, and the entry stands at the sequence that Do returned. When Do
// returns another error than one that wraps store.ErrUnknown, the change has no
// effect and no entry. The sequence has no gaps. Every change of a group that
// the store refuses fails; nothing waits longer than AnswerWithin, and the next
// group starts afresh from what the store then holds. An intent (an entry with
// audit.OutcomePending) that no outcome closed is closed as audit.OutcomeUnknown by
// the next Open of its node, or by any process that has seen it open for an hour.
//
// Several processes may share a Store whose Updates exclude those of other processes.
// Each follows what the others wrote by reading what is new, and believes none of it
// that the token's MAC of the head does not cover.
//
// The caller must write rows and leaves through Do and nowhere else, must call
// Close, and must treat a change as something that runs in another goroutine,
// inside a transaction that others wait for: no network, no token, no waits.
//
// BUG: between two anchors (Anchor.Every) whoever can restore the database and
// the host's file can take back what happened since the last one in the token and
// at the witnesses, unless the operation asked for Anchored.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/store"

	"golang.org/x/mod/sumdb/note"
)

// Limits of a ledger.
const (
	// GroupMax is the greatest number of changes in one transaction.
	GroupMax = 256
	// QueueMax is the greatest number of changes that wait; more callers wait in Do.
	QueueMax = 1024
	// GroupTimeout bounds the wait for the store and the token in a group.
	GroupTimeout = 3 * time.Second
	// AnswerWithin bounds Do, also when the disk hangs.
	AnswerWithin = 8 * time.Second
)

// Change makes its row changes and returns the entry that tells of them. Sequence,
// Time, Previous and State of the entry are the ledger's to set. If it returns an error, its row
// changes are undone and there is no entry.
type Change func(rows store.Rows) (audit.Entry, error)

// Config is what a ledger needs. Store, MAC, Signer, Verifier and Origin are
// required.
type Config struct {
	Store store.Store
	// MAC computes the MAC of a message under the state key of the token.
	MAC      func(ctx context.Context, message []byte) ([]byte, error)
	Signer   note.Signer   // signs checkpoints
	Verifier note.Verifier // of the Signer's key
	Origin   string        // names the log in its checkpoints
	// Node names this process among those that share the database; empty if there is
	// only one. No two may have one name.
	Node string
	Now  func() time.Time
	// Elapsed is a clock that nobody sets, from any beginning. Now is compared with it, so
	// that a jump shows; nil: nobody looks.
	Elapsed func() time.Duration
	// Extensions are further lines of every checkpoint, e.g. the digest of the
	// configuration; SetExtensions changes them.
	Extensions []string
	// CheckpointEvery is how often a log that has grown is signed without being
	// asked; 0 means one second, negative never.
	CheckpointEvery time.Duration
	// GuardEvery is how often the database is compared with everything that
	// protects it; 0 means 30 seconds, negative never.
	GuardEvery  time.Duration
	Anchors     []Anchor
	Witnesses   []Witness
	Disk        Disk             // nil: the disk is not watched
	OnViolation func(*Violation) // called once for each; must not wait
	OnGroup     func(Group)      // called after each attempt to commit; must not wait
	// Restore has Open accept a database that is older than its anchors, if officers
	// approve that, and say so in the log.
	Restore *Restoration
	Logger  *slog.Logger
}

func (c *Config) complete() error {
	if c.Store == nil || c.MAC == nil || c.Signer == nil || c.Verifier == nil || c.Origin == "" {
		return errors.New("ledger: Store, MAC, Signer, Verifier and Origin are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.CheckpointEvery == 0 {
		c.CheckpointEvery = time.Second
	}
	if c.GuardEvery == 0 {
		c.GuardEvery = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Ledger is an open log. Its methods may be called concurrently.
type Ledger struct {
	cfg   Config
	queue chan *request
	done  chan struct{} // closed when the writer has ended
	token chan struct{} // holds one element while the token computes MACs

	closing sync.RWMutex // held for reading while a request is being sent
	closed  bool         // guarded by closing
	stop    context.CancelFunc
	guards  sync.WaitGroup

	mu     sync.Mutex
	states states // guarded by mu

	found struct {
		sync.Mutex
		byRef map[store.Ref]*Violation
	}

	seenOpen map[int64]time.Time // intents, since when; the guard's own

	stale bool // the head must be read again before the next group; the writer's own

	sign     chan struct{}    // holds one token; who has it may sign
	signed   signedCheckpoint // the newest stored checkpoint; owned by who has the token
	anchored map[string]anchorState
	stats    stats
	clock    clock
	space    space

	extensions atomic.Pointer[[]string]
}

// Open checks the database and starts the writer. A store that holds nothing, and
// that no anchor knows, gets an empty log.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Ledger{
		cfg: cfg, queue: make(chan *request, QueueMax), done: make(chan struct{}),
		token: make(chan struct{}, 1), sign: make(chan struct{}, 1), anchored: map[string]anchorState{},
		seenOpen: map[int64]time.Time{},
	}
	l.found.byRef = map[store.Ref]*Violation{}
	l.stats.init(cfg)
	l.clock.init(cfg)
	l.SetExtensions(cfg.Extensions)
	l.sign <- struct{}{}
	behind, err := l.inspect(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	running, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.write()
	if err := l.settle(ctx, behind); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the audit log: %w", err), l.Close(ctx))
	}
	l.guards.Go(func() { l.every(running, cfg.CheckpointEvery, l.routine) })
	l.guards.Go(func() { l.every(running, cfg.GuardEvery, l.guard) })
	return l, nil
}

// inspect compares all that protects the database before anything is written. It
// returns the anchors that are ahead of it, if officers accept that.
func (l *Ledger) inspect(ctx context.Context) (behind []*Violation, err error) {
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	if err := l.timed(); err != nil {
		return nil, err
	}
	behind, err = l.compareAnchors(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range behind {
		if l.cfg.Restore == nil || v.foreign {
			return nil, v
		}
	}
	found, err := l.Scrub(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range found {
		l.report(v)
	}
	if err := l.refused(); err != nil {
		return nil, err
	}
	return behind, l.approve(ctx, behind)
}

// settle says in the log what the start found: a restored database, and intents
// that a dead process left open.
func (l *Ledger) settle(ctx context.Context, behind []*Violation) error {
	if len(behind) > 0 {
		if err := l.restore(ctx, behind); err != nil {
			return err
		}
	}
	return l.closeOwn(ctx)
}

// every runs f again and again. A run that takes long is followed by a longer
// pause, so that watching costs at most a fifth of one CPU.
func (l *Ledger) every(ctx context.Context, pause time.Duration, f func(context.Context)) {
	if pause < 0 {
		return
	}
	for wait := pause; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := time.Now()
		f(ctx)
		wait = max(pause, 4*time.Since(began))
	}
}

// Close lets the changes that wait finish, signs and anchors a last checkpoint and
// stops. The Store stays open. Later calls of Do are refused.
func (l *Ledger) Close(ctx context.Context) error {
	l.closing.Lock()
	first := !l.closed
	l.closed = true
	if first {
		close(l.queue)
	}
	l.closing.Unlock()
	<-l.done
	l.stop()
	l.guards.Wait()
	if !first {
		return nil
	}
	if err := l.Anchored(ctx); err != nil {
		return fmt.Errorf("closing the audit log: %w", err)
	}
	return nil
}

// Ready says why the ledger takes no entry, nil if it does.
func (l *Ledger) Ready() error { return errors.Join(l.Refusals()...) }

// Refusals returns each reason why the ledger takes no entry.
func (l *Ledger) Refusals() []error {
	all := []error{l.refused(), l.roomFor(), l.timed()}
	return slices.DeleteFunc(all, func(err error) bool { return err == nil })
}

// SetExtensions changes the further lines of checkpoints that are not signed yet.
func (l *Ledger) SetExtensions(lines []string) { l.extensions.Store(&lines) }

// Size returns the number of durable entries.
func (l *Ledger) Size() int64 { return l.currentState().head.size }

// First returns the sequence of the first entry whose content is still here.
func (l *Ledger) First() int64 { return l.currentState().head.first }

func (l *Ledger) currentState() *state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states.current
}

func (l *Ledger) knownState(row store.Row) *state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states.find(row)
}

func (l *Ledger) addState(st *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states.add(st)
}

// setCurrent moves on, never back: a reader may have found another node's state
// in the meantime.
func (l *Ledger) setCurrent(st *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.states.current; c == nil || st.version > c.version {
		l.states.current = st
		l.states.add(st)
	}
}

// unavailable is the answer to a caller whose entry the log did not take. What
// says more than that passes.
func unavailable(err error) error {
	switch fault.CodeOf(err) {
	case fault.RollbackDetected, fault.ObjectTampered, fault.TokenUnavailable, fault.AuditFull, fault.ClockUnsafe:
		return err
	}
	switch {
	case errors.Is(err, store.ErrUnknown):
		return fault.Because(fault.AuditUnavailable, "the audit log did not answer; whether this happened is not known", err)
	case errors.Is(err, store.ErrFull):
		return fault.Because(fault.AuditFull, "there is no room for the audit log, so nothing happened", err)
	}
	return fault.Because(fault.AuditUnavailable, "the audit log did not take the entry, so nothing happened", err)
}
