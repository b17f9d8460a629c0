// Package ledger writes the audit log: it makes each change of the database and
// the entry that tells of it durable together, or neither.
//
// Entries, tree and checkpoints are those of package audit; they live in a
// store.Store, in the same transaction as the change. Changes of concurrent
// callers are gathered into one transaction, so that each pays a share of one
// fsync. One goroutine writes; it keeps the size and the right edge of the tree
// in memory, so that appending reads nothing.
//
// It leaves out what entries mean, the state root, row MACs, anchors and
// witnesses: whoever keeps those uses the checkpoints and proofs from here.
//
// It promises: when Do returns nil, its entry and its row changes survive the
// loss of power, and the entry stands at the sequence that Do returned. When Do
// returns another error than one that wraps store.ErrUnknown, the change has no
// effect and no entry. The sequence has no gaps. Every change of a group that
// the store refuses fails with fault.AuditUnavailable; nothing waits for the
// store longer than GroupTimeout, and the next group starts afresh from what the
// store then holds. A log that is not the log that this process wrote, or that a
// stored checkpoint signed, is refused with ErrTampered.
//
// The caller must not use the Store's Leaves to write, must call Close, and must
// treat a change as something that runs in another goroutine, inside a
// transaction that others wait for: no network, no token, no waits.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
	// GroupTimeout bounds the wait for the store to begin a group.
	GroupTimeout = 10 * time.Second
)

// ErrTampered: the log in the store is not the log that was written and signed.
var ErrTampered = errors.New("ledger: the log in the store is not the log that was signed")

// Change makes its row changes in tx and returns the entry that tells of them.
// Sequence and Time of the entry are the ledger's to set. If it returns an error,
// its row changes are undone and there is no entry.
type Change func(tx store.Tx) (audit.Entry, error)

// Config is what a ledger needs. Store, Signer, Verifier and Origin are required.
type Config struct {
	Store    store.Store
	Signer   note.Signer   // signs checkpoints
	Verifier note.Verifier // of the Signer's key
	Origin   string        // names the log in its checkpoints
	Now      func() time.Time
	// CheckpointEvery is how often a log that has grown is signed without being
	// asked; 0 means one second, negative never.
	CheckpointEvery time.Duration
	// SkipScrub has Open compare only the tree and the checkpoint, and leave it
	// to the caller to call Scrub; for logs that take too long to read at once.
	SkipScrub bool
	Logger    *slog.Logger
}

// Ledger is an open log. Its methods may be called concurrently.
type Ledger struct {
	cfg   Config
	queue chan *request
	done  chan struct{} // closed when the writer has ended

	closing  sync.RWMutex // held for reading while a request is being sent
	closed   bool         // guarded by closing
	stopSign context.CancelFunc
	signing  sync.WaitGroup

	mu   sync.Mutex
	head audit.Edge // what is durable, as far as is known; guarded by mu, set by the writer

	stale bool // the head must be read again before the next group; the writer's own

	sign   chan struct{}    // holds one token; who has it may sign
	signed signedCheckpoint // the newest stored checkpoint; owned by who has the token
}

// Open checks the log in the store and starts the writer. A store without a log
// gets an empty one, signed at once, so that a log without a checkpoint is known
// to have lost it.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if cfg.Store == nil || cfg.Signer == nil || cfg.Verifier == nil || cfg.Origin == "" {
		return nil, errors.New("ledger: Store, Signer, Verifier and Origin are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CheckpointEvery == 0 {
		cfg.CheckpointEvery = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{cfg: cfg, queue: make(chan *request, QueueMax), done: make(chan struct{}), sign: make(chan struct{}, 1)}
	l.sign <- struct{}{}
	if err := l.load(ctx); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	ctx, l.stopSign = context.WithCancel(context.Background())
	go l.write()
	l.signing.Go(func() { l.signRegularly(ctx) })
	return l, nil
}

// Close lets the changes that wait finish, signs a last checkpoint and stops. The
// Store stays open. Later calls of Do are refused.
func (l *Ledger) Close(ctx context.Context) error {
	l.closing.Lock()
	first := !l.closed
	l.closed = true
	if first {
		close(l.queue)
	}
	l.closing.Unlock()
	<-l.done
	l.stopSign()
	l.signing.Wait()
	if !first {
		return nil
	}
	if _, err := l.Checkpoint(ctx); err != nil {
		return fmt.Errorf("closing the audit log: %w", err)
	}
	return nil
}

// Size returns the number of durable entries.
func (l *Ledger) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Size()
}

// durable returns a copy of the head.
func (l *Ledger) durable() audit.Edge {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Clone()
}

func (l *Ledger) setHead(e audit.Edge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = e
}

// unavailable is the answer to a caller whose entry the log did not take.
func unavailable(err error) error {
	detail := "the audit log did not take the entry, so nothing happened"
	if errors.Is(err, store.ErrUnknown) {
		detail = "the audit log did not answer; whether this happened is not known"
	}
	return fault.Because(fault.AuditUnavailable, detail, err)
}
