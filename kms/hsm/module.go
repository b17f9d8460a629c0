package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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
	Module   string       // path of the PKCS#11 module
	InitArgs string       // reserved string of C_Initialize; only NSS softokn needs it
	Label    string       // CKA label of the token; slot numbers change, labels do not
	PIN      secret.Bytes // User PIN, presented once per (re)connection
	// PINSource is asked for the User PIN at each (re)connection instead, and bounds
	// itself. What it returned is wiped after the login.
	PINSource func() (secret.Bytes, error)
	Sessions  int // operation sessions, default 8
	Objects   int // live derived keys, default 2000 (about 18 MB in SoftHSM2)
	// LeaseWait bounds how long an operation waits for a session, default 2 s; its
	// context may end earlier. A token whose calls hang holds its sessions, and
	// callers must hear of it.
	LeaseWait time.Duration
	// CallWait bounds how long an operation waits for its answer, default 5 s.
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

// Open loads the module, logs in and finds out what the token can do. One that can
// derive by neither plan is refused. Tokens of one module may be open at the same time,
// each once.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	t, err := OpenAny(ctx, cfg)
	if err == nil && t.caps[0].Err != nil {
		err = fmt.Errorf("the token %q cannot derive keys inside: %w", cfg.Label, t.caps[0].Err)
		t.Close()
		return nil, err
	}
	return t, err
}

// OpenAny is Open for whoever wants to know what a token cannot do.
func OpenAny(ctx context.Context, cfg Config) (*Token, error) {
	if cfg.Sessions <= 0 {
		cfg.Sessions = 8
	}
	if cfg.Objects <= 0 {
		cfg.Objects = 2000
	}
	if cfg.LeaseWait <= 0 {
		cfg.LeaseWait = 2 * time.Second
	}
	if cfg.CallWait <= 0 {
		cfg.CallWait = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	t := &Token{cfg: cfg, calls: make(chan struct{}, callsMax)}
	t.objects.init(cfg.Objects)
	for i := range t.roots.finders {
		t.roots.finders[i] = newTurn()
	}
	if err := join(ctx, cfg, t); err != nil {
		return nil, fmt.Errorf("opening the token %q: %w", cfg.Label, err)
	}
	if err := t.detect(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("finding out what the token %q can do: %w", cfg.Label, err)
	}
	return t, nil
}

// PINRefused reports whether an error of Open says that the token refused its PIN: then
// another attempt could lock it.
func PINRefused(err error) bool { return remedyFor(err) == stop }

// Away reports whether an error of Open says that the token is not there now.
func Away(err error) bool { return errors.Is(err, errNoToken) || remedyFor(err) == reconnect }

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

// openSessions finds the token and logs in. What was opened is closed again where it
// fails: the library may go on with other tokens. The caller holds life for writing, or
// nobody else knows t yet.
func (t *Token) openSessions() (err error) {
	if t.slot, err = findSlot(t.library.ctx, t.cfg.Label); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = t.ctx.CloseAllSessions(t.slot)
		}
	}()
	if t.anchor, err = t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return failed("C_OpenSession", err)
	}
	if err := t.login(); err != nil {
		return err
	}
	owners := make([]*owner, creators)
	for i := range owners {
		h, err := t.openSession()
		if err != nil {
			return err
		}
		owners[i] = &owner{newTurn(), h}
	}
	ops := make(chan *session, t.cfg.Sessions)
	for range t.cfg.Sessions {
		h, err := t.openSession()
		if err != nil {
			return err
		}
		ops <- &session{handle: h}
	}
	t.owners, t.ops = owners, ops
	return nil
}

// login presents the PIN once: a token may lock after a few wrong ones.
func (t *Token) login() error {
	pin := t.cfg.PIN
	if t.cfg.PINSource != nil {
		var err error
		if pin, err = t.cfg.PINSource(); err != nil {
			return fmt.Errorf("getting the PIN: %w", err)
		}
		defer pin.Wipe()
	}
	err := failed("C_Login", t.ctx.Login(t.anchor, pkcs11.CKU_USER, string(pin.Reveal())))
	if err != nil && remedyFor(err) == stop {
		t.sealed = fault.Because(fault.TokenUnavailable, "the token refused its PIN", err)
	}
	return err
}

func (t *Token) openSession() (pkcs11.SessionHandle, error) {
	h, err := t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION)
	return h, failed("C_OpenSession", err)
}

func findSlot(c *pkcs11.Ctx, label string) (uint, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, failed("C_GetSlotList", err)
	}
	var found []uint
	for _, s := range slots {
		info, err := c.GetTokenInfo(s)
		if err == nil && strings.TrimRight(info.Label, " \x00") == label {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("%w %q", errNoToken, label)
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("hsm: %d tokens are labelled %q, want one", len(found), label)
	}
	return found[0], nil
}

var errNoToken = errors.New("hsm: no token is labelled")

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
	t.sweep(s)
	t.inUse.Add(-1)
	t.ops <- s
}

// attempts bounds how often one operation is tried: once more after each remedy.
// A token that closed every session needs all three, one after the other.
const attempts = 4

// do runs f with a session and the object of k, and applies the remedies of
// errors.go. f may run several times.
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
		defer t.objects.release(o)
	}
	return t.epoch, f(ctx, s.handle, o)
}
