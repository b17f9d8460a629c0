package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/secret"
)

// Config says which token to use and how much of it.
type Config struct {
	Module   string // path of the PKCS#11 module
	InitArgs string // reserved string of C_Initialize; only NSS softokn needs it
	Label    string // CKA label of the token; slot numbers change, labels do not
	// PIN is the User PIN, presented once per (re)connection. It stays with the token:
	// nobody wipes it, and not even after an opening that was given up.
	PIN secret.Bytes
	// PINSource is asked for the User PIN at each (re)connection instead, and bounds
	// itself. What it returned is wiped after the login.
	PINSource func() (secret.Bytes, error)
	Sessions  int // operation sessions, default 8
	Objects   int // live derived keys, default 2000 (about 18 MB in SoftHSM2)
	// LeaseWait bounds how long an operation waits for a session, default 2 s; its
	// context may end earlier. A token whose calls hang holds its sessions, and
	// callers must hear of it.
	LeaseWait time.Duration
	// CallWait bounds how long an operation waits for its answer, default 5 s; Open waits
	// six times as long.
	CallWait time.Duration
	Logger   *slog.Logger // default slog.Default()
}

// creators is the number of sessions that own derived objects. C_DeriveKey runs
// one at a time in each, so it bounds how many derivations run at once.
const creators = 4

// Token is one PKCS#11 token. It implements derive.Token, derive.Wrapper and derive.Agreer.
type Token struct {
	*library // that it is in, with life and epoch
	// ctx is the library's, counted: it hides the plain one.
	ctx *counted
	cfg Config
	// opening says how far Open came, and whether anybody waits for it still.
	opening atomic.Int32

	slot   uint
	anchor pkcs11.SessionHandle // holds the login; never carries an operation
	ops    chan *session
	calls  chan struct{} // holds one element for each operation under way, see hand
	// inUse counts the sessions that are leased, waiting the operations that wait for one.
	inUse, waiting atomic.Int32
	owners         []*owner
	plan           plan
	sealed         error // why the token must not be used again; guarded by life
	// away is why the token could not be opened again in this life of the library, in
	// which its handles may be those of another token; guarded by life.
	away error

	kinds    sync.Map // of derivedKind: whose whole template was read back
	objects  table
	tidying  atomic.Bool // a goroutine has what left the table destroyed
	roots    roots
	fleeting fleeting
	caps     []Capability
	lastLost time.Time     // guarded by life
	pause    time.Duration // before the next attempt to reconnect; guarded by life
}

// session is one PKCS#11 session for operations.
type session struct{ handle pkcs11.SessionHandle }

// owner is a session whose objects live as long as it does.
type owner struct {
	turn
	handle pkcs11.SessionHandle
}

var errClosed = errors.New("hsm: the token is closed")

// usable returns why no call may reach the token now. The caller holds life.
func (t *Token) usable() error {
	if t.sealed != nil {
		return t.sealed
	}
	if t.away != nil {
		return &Error{Function: "C_GetSlotList", CKR: pkcs11.CKR_TOKEN_NOT_PRESENT}
	}
	return nil
}

// Manufacturer returns who made the library and the token, as they say of
// themselves.
func (t *Token) Manufacturer() (string, error) {
	return hand(context.Background(), t, t.cfg.CallWait, func(ctx context.Context) (string, error) {
		if err := t.life.RLock(ctx); err != nil {
			return "", err
		}
		defer t.life.RUnlock()
		library, err := t.ctx.GetInfo()
		if err != nil {
			return "", failed("C_GetInfo", err)
		}
		token, err := t.info()
		if err != nil {
			return library.ManufacturerID, nil
		}
		return library.ManufacturerID + "; " + token.ManufacturerID + " " + token.Model, nil
	})
}

// Description names the token: label, model and serial number.
func (t *Token) Description() string {
	is, err := hand(context.Background(), t, t.cfg.CallWait, func(ctx context.Context) (string, error) {
		if err := t.life.RLock(ctx); err != nil {
			return "", err
		}
		defer t.life.RUnlock()
		info, err := t.info()
		return fmt.Sprintf("%s (%s, serial number %s)", info.Label, info.Model, info.SerialNumber), err
	})
	if err != nil {
		return t.cfg.Label
	}
	return is
}

// info asks the token about itself. One that was taken away answers no more, although its
// sessions may: SoftHSM2 then finds no key and makes random numbers still. The caller
// holds life.
func (t *Token) info() (pkcs11.TokenInfo, error) {
	if err := t.usable(); err != nil {
		return pkcs11.TokenInfo{}, err
	}
	info, err := t.ctx.GetTokenInfo(t.slot)
	if err != nil {
		return info, &Error{Function: "C_GetTokenInfo", CKR: pkcs11.CKR_TOKEN_NOT_PRESENT}
	}
	return info, nil
}

// Ready looks that the token is there and answers; one that was lost is connected again.
func (t *Token) Ready(ctx context.Context) error {
	_, err := answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) ([]byte, error) {
		if _, err := t.info(); err != nil {
			return nil, err
		}
		b, err := t.ctx.GenerateRandom(s, 8)
		return b, failed("C_GenerateRandom", err)
	})
	return err
}

// Close waits for operations to end and logs out. With the last token of a module the
// library is finalised and unloaded. Where a call hangs that is tried again behind the
// caller's back, so that the token can be opened again once the call came back.
func (t *Token) Close() {
	err := t.close()
	if err == nil {
		return
	}
	t.cfg.Logger.Error("the token could not be closed; trying again", "token", t.cfg.Label, "error", err)
	go func() {
		for t.close() != nil {
			time.Sleep(backOff)
		}
	}()
}

func (t *Token) close() error {
	_, err := hand(context.Background(), t, t.cfg.CallWait, func(ctx context.Context) (nothing, error) { return nothing{}, t.leave(ctx, t) })
	return err
}

// The least and the longest time between two attempts to reconnect, so that a dead token
// is hammered by no request, and the others of its library are seldom disturbed by it.
const (
	backOff    = 500 * time.Millisecond
	backOffMax = 30 * time.Second
)

// reconnect finalises and initialises the library, unless somebody did so since
// the caller saw epoch. Every handle is forgotten: derived keys are derived
// again, roots found again.
func (t *Token) reconnect(ctx context.Context, epoch uint64, why error) error {
	if err := t.life.Lock(ctx); err != nil {
		return err
	}
	defer t.life.Unlock()
	if t.sealed != nil {
		return t.sealed
	}
	if t.epoch != epoch {
		return nil
	}
	if time.Since(t.lastLost) < t.pause {
		return fault.Because(fault.TokenUnavailable, "the token is lost", why)
	}
	t.lastLost = time.Now()
	t.cfg.Logger.Warn("token lost, connecting again", "token", t.cfg.Label, "why", why, "epoch", epoch)
	_ = t.restart() // what became of this token is in away
	if t.away != nil {
		t.pause = min(max(2*t.pause, backOff), backOffMax)
		return fault.Because(fault.TokenUnavailable, "the token is lost", t.away)
	}
	t.pause = backOff
	return nil
}

// forgetAll wipes what is known of live objects. The objects themselves end with
// the library. Roots first: whoever finds one that is forgotten leaves no garbage.
func (t *Token) forgetAll() {
	t.roots.forget()
	t.fleeting.forgetAll()
	t.objects.forgetAll()
}

// lease takes an operation session until give. It waits at most LeaseWait, and
// until ctx ends. The caller holds life for reading.
func (t *Token) lease(ctx context.Context) (*session, error) {
	select {
	case s := <-t.ops:
		t.inUse.Add(1)
		return s, nil
	default:
	}
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, t.cfg.LeaseWait)
	defer cancel()
	select {
	case s := <-t.ops:
		t.inUse.Add(1)
		return s, nil
	case <-ctx.Done():
		return nil, fault.Because(fault.TokenUnavailable, "the token is busy", ctx.Err())
	}
}

// give returns a session, closed and replaced when its last operation failed: a
// failed operation may leave it active, and [P11] 2.40 has no way to cancel.
func (t *Token) give(s *session, err error) {
	var e *Error
	if errors.As(err, &e) || errors.Is(err, errPanic) {
		_ = t.ctx.CloseSession(s.handle)
		// If no session can be opened the stale handle stays: its next use fails
		// and comes back here.
		if h, err := t.openSession(); err == nil {
			s.handle = h
		}
	}
	t.sweep(s.handle)
	t.inUse.Add(-1)
	t.ops <- s
}

// attempts bounds how often one operation is tried: once more after each remedy.
// A token that closed every session needs all three, one after the other.
const attempts = 4

// do runs f with a session and the object of k, which f releases, and applies the remedies
// of errors.go. f may run several times.
func (t *Token) do(ctx context.Context, k *derive.Key, f func(context.Context, pkcs11.SessionHandle, *object) error) error {
	var err error
	for range attempts {
		var epoch uint64
		epoch, err = t.try(ctx, k, f)
		r := remedyFor(err)
		if r == newSession && !t.anchored(ctx) {
			r = reconnect
		}
		switch r {
		case newSession:
		case findAgain:
			t.objects.forgetChain(k)
			t.roots.forget()
		case reconnect:
			if err := t.reconnect(ctx, epoch, err); err != nil {
				return err
			}
		default:
			return report(err)
		}
	}
	return report(err)
}

// anchored reports whether the session that holds the login is alive. A token
// that closed it closed all of them: to replace one by one would find the login
// lost only after as many failures as there are sessions.
func (t *Token) anchored(ctx context.Context) bool {
	if t.life.RLock(ctx) != nil {
		return true // nobody knows, and the session that failed is replaced
	}
	defer t.life.RUnlock()
	return t.usable() == nil && t.loggedIn(t.anchor)
}

func (t *Token) try(ctx context.Context, k *derive.Key, f func(context.Context, pkcs11.SessionHandle, *object) error) (epoch uint64, err error) {
	if err := t.life.RLock(ctx); err != nil {
		return 0, err
	}
	defer t.life.RUnlock()
	if err := t.usable(); err != nil {
		return t.epoch, err
	}
	s, err := t.lease(ctx)
	if err != nil {
		return t.epoch, err
	}
	defer func() { t.give(s, err) }()
	defer t.caught(&err)
	var o *object
	if k != nil {
		if o, err = t.acquire(ctx, s.handle, k); err != nil {
			return t.epoch, err
		}
	}
	return t.epoch, f(ctx, s.handle, o)
}
