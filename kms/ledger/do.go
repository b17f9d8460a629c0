package ledger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// errClosed: the ledger takes no more changes.
var errClosed = errors.New("ledger: closed")

// request is one call of Do.
type request struct {
	change  Change
	emptied int64 // the content of entries before this one goes; 0 for none
	// taken is set by whoever decides: the writer, which then applies the change
	// and answers, or the caller, which then goes away.
	taken  atomic.Bool
	answer chan struct{} // closed when the fields below are set

	seq      int64
	err      error
	panicked any // what the change panicked with
}

func (r *request) reply(seq int64, err error) {
	r.seq, r.err = seq, err
	close(r.answer)
}

// Do applies the change and appends its entry, and returns the entry's sequence
// when both are durable. The change's own error comes back as it is. If ctx ends
// before the change's group starts, the change is not applied and ctx's error
// comes back; after that Do waits for the outcome, at most AnswerWithin. A change
// that panics is undone, and Do panics with the same value.
func (l *Ledger) Do(ctx context.Context, change Change) (seq int64, err error) {
	if err := l.roomFor(); err != nil {
		return 0, err
	}
	return l.do(ctx, &request{change: change})
}

func (l *Ledger) do(ctx context.Context, r *request) (seq int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	late := time.NewTimer(AnswerWithin)
	defer late.Stop()
	r.answer = make(chan struct{})
	if err := l.enqueue(ctx, r, late.C); err != nil {
		return 0, err
	}
	if err := r.wait(ctx, late.C); err != nil {
		return 0, err
	}
	if errors.Is(r.err, store.ErrFull) {
		l.space.lost.Store(l.cfg.Disk != nil)
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.seq, r.err
}

// wait waits for the answer. A request that ends before its group starts is
// withdrawn and has no effect; after that nobody knows.
func (r *request) wait(ctx context.Context, late <-chan time.Time) error {
	select {
	case <-r.answer:
		return nil
	case <-ctx.Done():
		if r.withdraw() {
			return ctx.Err()
		}
		select {
		case <-r.answer:
			return nil
		case <-late:
		}
	case <-late:
		if r.withdraw() {
			return unavailable(errHangs)
		}
	}
	return unavailable(fmt.Errorf("%w: %w", store.ErrUnknown, errHangs))
}

func (r *request) withdraw() bool { return r.taken.CompareAndSwap(false, true) }

// errHangs: the store or the disk below it does not come back.
var errHangs = errors.New("ledger: the store does not answer")

func (l *Ledger) enqueue(ctx context.Context, r *request, late <-chan time.Time) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return fault.Because(fault.AuditUnavailable, "the service is stopping", errClosed)
	}
	select {
	case l.queue <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late:
		return unavailable(errHangs)
	}
}

// write is the writer's goroutine: it takes what waits and commits it, until the
// queue is closed and empty.
func (l *Ledger) write() {
	defer close(l.done)
	group := make([]*request, 0, GroupMax)
	for r := range l.queue {
		group = l.gather(append(group[:0], r))
		l.commit(group)
		clear(group)
	}
}

// gather adds what waits already. It waits for nobody, but lets the callers whose
// group has just been answered run first: those who come back at once share this
// fsync instead of forming a second set that takes turns with the first.
func (l *Ledger) gather(group []*request) []*request {
	for len(group) < GroupMax {
		if len(l.queue) == 0 {
			runtime.Gosched()
		}
		select {
		case r, ok := <-l.queue:
			if !ok {
				return group
			}
			group = append(group, r)
		default:
			return group
		}
	}
	return group
}
