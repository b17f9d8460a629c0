package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

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
	Logger    *slog.Logger // default slog.Default()
}

// creators is the number of sessions that own derived objects. C_DeriveKey runs
// one at a time in each, so it bounds how many derivations run at once.
const creators = 4

// Token is one PKCS#11 token. It implements derive.Token and derive.Wrapper.
type Token struct {
	ctx *pkcs11.Ctx
	cfg Config

	// life is held for reading by every operation, and for writing while the
	// library is finalised and initialised, so that no call is in flight then.
	life   sync.RWMutex
	epoch  uint64 // rises with every initialisation; guarded by life
	slot   uint
	anchor pkcs11.SessionHandle // holds the login; never carries an operation
	ops    chan *session
	owners []*owner
	plan   plan
	sealed error // why the token must not be used again; guarded by life

	kinds    sync.Map // of derivedKind: whose whole template was read back
	objects  table
	roots    roots
	caps     []Capability
	lastLost time.Time // guarded by life
}

// session is one PKCS#11 session for operations.
type session struct{ handle pkcs11.SessionHandle }

// owner is a session whose objects live as long as it does.
type owner struct {
	mu     sync.Mutex
	handle pkcs11.SessionHandle
}

// Open loads the module, logs in and finds out what the token can do. There is
// one Token per process and module: the library's state is global.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if cfg.Sessions <= 0 {
		cfg.Sessions = 8
	}
	if cfg.Objects <= 0 {
		cfg.Objects = 2000
	}
	if cfg.LeaseWait <= 0 {
		cfg.LeaseWait = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	t := &Token{cfg: cfg, ctx: pkcs11.New(cfg.Module)}
	if t.ctx == nil {
		return nil, fmt.Errorf("hsm: %s cannot be loaded as a PKCS#11 module", cfg.Module)
	}
	t.objects.init(cfg.Objects)
	if err := t.connect(); err != nil {
		t.ctx.Destroy()
		return nil, fmt.Errorf("opening the token %q: %w", cfg.Label, err)
	}
	if err := t.detect(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("finding out what the token %q can do: %w", cfg.Label, err)
	}
	return t, nil
}

// Manufacturer returns who made the library and the token, as they say of
// themselves.
func (t *Token) Manufacturer() string {
	t.life.RLock()
	defer t.life.RUnlock()
	library, err := t.ctx.GetInfo()
	if err != nil {
		return ""
	}
	token, err := t.ctx.GetTokenInfo(t.slot)
	if err != nil {
		return library.ManufacturerID
	}
	return library.ManufacturerID + "; " + token.ManufacturerID + " " + token.Model
}

// Description names the token: label, model and serial number.
func (t *Token) Description() string {
	t.life.RLock()
	defer t.life.RUnlock()
	info, err := t.ctx.GetTokenInfo(t.slot)
	if err != nil {
		return t.cfg.Label
	}
	return fmt.Sprintf("%s (%s, serial number %s)", info.Label, info.Model, info.SerialNumber)
}

// Close waits for operations to end, logs out by finalising the library, and
// unloads the module.
func (t *Token) Close() {
	t.life.Lock()
	defer t.life.Unlock()
	t.sealed = errors.New("hsm: the token is closed")
	t.forgetAll()
	_ = t.ctx.Finalize()
	t.ctx.Destroy()
}

// initialize calls C_Initialize; the flags say that the module is used by many
// threads. NSS reads its configuration from the reserved argument.
func initialize(c *pkcs11.Ctx, args string) error {
	if args == "" {
		return failed("C_Initialize", c.Initialize())
	}
	b := append([]byte(args), 0)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&b[0])
	return failed("C_Initialize", c.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&b[0]))))
}

// connect initialises the library and opens every session. The caller holds life
// for writing, or nobody else knows t yet.
func (t *Token) connect() error {
	if err := initialize(t.ctx, t.cfg.InitArgs); err != nil {
		return err
	}
	t.epoch++
	if err := t.openSessions(); err != nil {
		_ = t.ctx.Finalize()
		return err
	}
	return nil
}

func (t *Token) openSessions() (err error) {
	if t.slot, err = findSlot(t.ctx, t.cfg.Label); err != nil {
		return err
	}
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
		owners[i] = &owner{handle: h}
	}
	ops := make(chan *session, t.cfg.Sessions)
	for range t.cfg.Sessions {
		h, err := t.openSession()
		if err != nil {
			return err
		}
		ops <- &session{handle: h}
	}
	// Only a whole set replaces the old one: after a failure here the dead
	// sessions must still be there to be leased, because it is their error that
	// asks for the next reconnect.
	t.owners, t.ops = owners, ops
	return nil
}

// ErrPINRefused: the token does not take the PIN. It is not presented again, because a
// token may lock after a few wrong ones.
var ErrPINRefused = errors.New("hsm: the token refused its PIN")

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
		err = fmt.Errorf("%w: %w", ErrPINRefused, err)
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

// backOff is the least time between two attempts to reconnect, so that a dead
// token is not hammered by every request.
const backOff = 500 * time.Millisecond

// reconnect finalises and initialises the library, unless somebody did so since
// the caller saw epoch. Every handle is forgotten: derived keys are derived
// again, roots found again.
func (t *Token) reconnect(epoch uint64, why error) error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.sealed != nil {
		return t.sealed
	}
	if t.epoch != epoch {
		return nil
	}
	if time.Since(t.lastLost) < backOff {
		return fault.Because(fault.TokenUnavailable, "the token is lost", why)
	}
	t.lastLost = time.Now()
	t.cfg.Logger.Warn("token lost, connecting again", "token", t.cfg.Label, "why", why, "epoch", epoch)
	t.forgetAll()
	_ = t.ctx.Finalize()
	if err := t.connect(); err != nil {
		return fault.Because(fault.TokenUnavailable, "the token is lost", err)
	}
	return nil
}

// forgetAll wipes what is known of live objects. The objects themselves end with
// the library.
func (t *Token) forgetAll() {
	t.objects.forgetAll()
	t.roots.forget()
}

// lease takes an operation session until give. It waits at most LeaseWait, and
// until ctx ends. The caller holds life for reading.
func (t *Token) lease(ctx context.Context) (*session, error) {
	select {
	case s := <-t.ops:
		return s, nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.LeaseWait)
	defer cancel()
	select {
	case s := <-t.ops:
		return s, nil
	case <-ctx.Done():
		return nil, fault.Because(fault.TokenUnavailable, "the token is busy", ctx.Err())
	}
}

// give returns a session, closed and replaced when its last operation failed: a
// failed operation may leave it active, and [P11] 2.40 has no way to cancel.
func (t *Token) give(s *session, err error) {
	var e *Error
	if errors.As(err, &e) {
		_ = t.ctx.CloseSession(s.handle)
		// If no session can be opened the stale handle stays: its next use fails
		// and comes back here.
		if h, err := t.openSession(); err == nil {
			s.handle = h
		}
	}
	t.sweep(s)
	t.ops <- s
}

// attempts bounds how often one operation is tried: once more after each remedy.
// A token that closed every session needs all three, one after the other.
const attempts = 4

// do runs f with a session and the object of k, and applies the remedies of
// errors.go. f may run several times.
func (t *Token) do(ctx context.Context, k *derive.Key, f func(pkcs11.SessionHandle, *object) error) error {
	var err error
	for range attempts {
		var epoch uint64
		epoch, err = t.try(ctx, k, f)
		r := remedyFor(err)
		if r == newSession && !t.anchored() {
			r = reconnect
		}
		switch r {
		case newSession:
		case findAgain:
			t.objects.forgetChain(k)
			t.roots.forget()
		case reconnect:
			if err := t.reconnect(epoch, err); err != nil {
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
func (t *Token) anchored() bool {
	t.life.RLock()
	defer t.life.RUnlock()
	return t.sealed == nil && t.loggedIn(t.anchor)
}

func (t *Token) try(ctx context.Context, k *derive.Key, f func(pkcs11.SessionHandle, *object) error) (uint64, error) {
	t.life.RLock()
	defer t.life.RUnlock()
	if t.sealed != nil {
		return t.epoch, t.sealed
	}
	s, err := t.lease(ctx)
	if err != nil {
		return t.epoch, err
	}
	var o *object
	if k != nil {
		if o, err = t.acquire(s.handle, k); err != nil {
			t.give(s, err)
			return t.epoch, err
		}
	}
	err = f(s.handle, o)
	if o != nil {
		t.objects.release(o)
	}
	t.give(s, err)
	return t.epoch, err
}
