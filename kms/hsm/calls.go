package hsm

import (
	"bytes"
	"context"
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sync/semaphore"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/secret"
)

// life is the lock of a library: shared by its operations, and held alone by whoever
// finalises it or makes token objects. A call that hangs keeps its share for ever, so
// nobody waits for the lock without a bound, and while such a call is known nobody waits
// to have it alone, which would keep everybody else out meanwhile.
type life struct {
	shares *semaphore.Weighted
	hung   atomic.Int32 // calls that take longer than whoever asked waits
}

const (
	allShares = 1 << 30
	// aloneWait bounds how long operations under way are waited for, and how long others
	// wait behind that.
	aloneWait = 2 * time.Second
)

func newLife() life { return life{shares: semaphore.NewWeighted(allShares)} }

func (l *life) RLock(ctx context.Context) error {
	if l.shares.Acquire(ctx, 1) != nil {
		return givenUp(ctx)
	}
	return nil
}

func (l *life) RUnlock() { l.shares.Release(1) }

func (l *life) Lock(ctx context.Context) error {
	if l.hung.Load() > 0 {
		if ctx.Err() == nil && l.shares.TryAcquire(allShares) {
			return nil
		}
		return errHangs
	}
	ctx, cancel := context.WithTimeout(ctx, aloneWait)
	defer cancel()
	if l.shares.Acquire(ctx, allShares) != nil {
		return givenUp(ctx)
	}
	return nil
}

func (l *life) Unlock() { l.shares.Release(allShares) }

var errHangs = fault.New(fault.TokenUnavailable, "the token does not answer")

// givenUp says why something was waited for no longer.
func givenUp(ctx context.Context) error {
	return fault.Because(fault.TokenUnavailable, "the token does not answer", ctx.Err())
}

// turn is a mutex that is waited for until a context ends: whoever has it may be in a call
// that hangs.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return givenUp(ctx)
	}
}

func (t turn) try() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t turn) pass() { <-t }

// callsMax is how many operations may be under way or have been given up; each costs a
// goroutine, and a thread once it is in the library.
const callsMax = 256

// hand runs f in a goroutine of its own, because a call that hangs inside the module
// cannot be cancelled. Whoever waits is told so after this time, or when ctx ends; the call
// keeps what it holds, and when it comes back its answer goes nowhere. So f must give all
// that it computes by its results.
func hand[T any](ctx context.Context, t *Token, wait time.Duration, f func(context.Context) (T, error)) (T, error) {
	return handEarly(ctx, t, wait, func(ctx context.Context, _ func(T)) (T, error) { return f(ctx) })
}

// handEarly is hand for an f that may tell its result by a function before it returns,
// without an error: what it does then is behind the back of whoever waited.
func handEarly[T any](ctx context.Context, t *Token, wait time.Duration, f func(ctx context.Context, tell func(T)) (T, error)) (T, error) {
	type result struct {
		out T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case t.calls <- struct{}{}:
	case <-ctx.Done():
		return *new(T), givenUp(ctx)
	}
	done := make(chan result, 2) // what is told early is told again
	go func() {
		var ended atomic.Bool // or late
		late := time.AfterFunc(wait, func() {
			if t.life.hung.Add(1); ended.Swap(true) {
				t.life.hung.Add(-1)
			}
		})
		var r result
		func() {
			defer t.caught(&r.err)
			r.out, r.err = f(ctx, func(out T) { done <- result{out: out} })
		}()
		if late.Stop(); ended.Swap(true) {
			t.life.hung.Add(-1)
		}
		<-t.calls
		done <- r
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done: // both were ready
		return r.out, r.err
	default:
		return *new(T), givenUp(ctx)
	}
}

// answer runs f with a session and the object of k, nil for none; f may run several times.
func answer[T any](ctx context.Context, t *Token, k *derive.Key, f func(context.Context, pkcs11.SessionHandle, *object) (T, error)) (T, error) {
	return answerWithin(ctx, t, t.cfg.CallWait, k, f)
}

// slowly is how long an operation of very many calls may take, or one that makes token
// objects.
func (t *Token) slowly() time.Duration { return 6 * t.cfg.CallWait }

// answerWithin hands over the answer before the session is given back: that destroys
// objects, which nobody waits for.
func answerWithin[T any](ctx context.Context, t *Token, wait time.Duration, k *derive.Key, f func(context.Context, pkcs11.SessionHandle, *object) (T, error)) (T, error) {
	return handEarly(ctx, t, wait, func(ctx context.Context, tell func(T)) (out T, err error) {
		err = t.do(ctx, k, func(ctx context.Context, s pkcs11.SessionHandle, o *object) (err error) {
			func() {
				defer t.objects.release(o)
				out, err = f(ctx, s, o)
			}()
			if err == nil {
				tell(out)
			}
			return err
		})
		return out, err
	})
}

// ceremony runs f in a read-write session of its own, which only the making of
// token objects needs. It waits until no other call is in flight: SoftHSM2 2.6.1
// fails to make a token object while another session searches (its issue 573).
// The context of f ends when nobody waits for its result any more.
func ceremony[T any](ctx context.Context, t *Token, f func(context.Context, pkcs11.SessionHandle) (T, error)) (T, error) {
	return ceremonyWithin(ctx, t, t.slowly(), f)
}

func ceremonyWithin[T any](ctx context.Context, t *Token, wait time.Duration, f func(context.Context, pkcs11.SessionHandle) (T, error)) (T, error) {
	return hand(ctx, t, wait, func(ctx context.Context) (out T, err error) {
		if err := t.life.Lock(ctx); err != nil {
			return out, err
		}
		defer t.life.Unlock()
		if err := t.usable(); err != nil {
			return out, report(err)
		}
		s, err := t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return out, report(failed("C_OpenSession", err))
		}
		defer func() { _ = t.ctx.CloseSession(s) }()
		out, err = f(ctx, s)
		return out, report(err)
	})
}

// nothing is the result of what has none.
type nothing = struct{}

// alone is ceremony for what has no result.
func (t *Token) alone(ctx context.Context, f func(context.Context, pkcs11.SessionHandle) error) error {
	_, err := ceremony(ctx, t, func(ctx context.Context, s pkcs11.SessionHandle) (nothing, error) { return nothing{}, f(ctx, s) })
	return err
}

// unheard takes back the objects that a ceremony made if nobody waits for its result any
// more: their names would stay taken.
func (t *Token) unheard(ctx context.Context, s pkcs11.SessionHandle, made ...pkcs11.ObjectHandle) error {
	err := heard(ctx)
	if err != nil {
		for _, h := range made {
			_ = t.ctx.DestroyObject(s, h)
		}
	}
	return err
}

// heard says that nobody waits for a result any more, nil if somebody does.
func heard(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return givenUp(ctx)
}

// lent is a copy of a secret value for a call that may be given up: who gave the value
// wipes it, and frees its memory, as soon as he is told so.
type lent struct {
	value secret.Bytes
	taken atomic.Bool
}

func lend(value []byte) *lent { return &lent{value: secret.New(bytes.Clone(value))} }

// take gives the value to the call, which wipes it; not any more after back.
func (l *lent) take() error {
	if l.taken.Swap(true) {
		return errHangs
	}
	return nil
}

// back wipes a copy that no call has taken.
func (l *lent) back() {
	if !l.taken.Swap(true) {
		l.value.Wipe()
	}
}

var errPanic = errors.New("hsm: a token operation ended in a panic")

// caught turns a panic into an error: it is in a goroutine that no caller's recover
// reaches, and would end every channel of the process.
func (t *Token) caught(err *error) {
	if p := recover(); p != nil {
		t.cfg.Logger.Error("panic in a token operation", "panic", p, "stack", string(debug.Stack()))
		*err = errPanic
	}
}
