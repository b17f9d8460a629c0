package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// library is one PKCS#11 library in this process. Its state is global: C_Initialize and
// C_Finalize are for all of its tokens together, and a handle of one of them is a number
// that another may get after the next C_Initialize. So tokens of one library share this.
type library struct {
	// life is held for reading by every operation, and for writing while the
	// library is finalised and initialised, so that no call is in flight then.
	life   life
	ctx    *pkcs11.Ctx // nil while no token is open; guarded by life
	args   string      // reserved string of C_Initialize; guarded by life
	epoch  uint64      // rises with every initialisation; guarded by life
	tokens []*Token    // that are open; guarded by life
	// sought is when the library last began anew for a token that was away, by label;
	// guarded by life.
	sought map[string]time.Time
	adding turn // had by whoever opens a token, since two would share the login of one
}

// libraries are those that tokens were ever opened of, by path without symbolic links. None
// is forgotten: whoever opens a token of one must meet whoever still closes another.
var libraries sync.Map

func libraryOf(module string) *library {
	path, err := filepath.EvalSymlinks(module)
	if err != nil {
		path = module // the loader has search paths of its own
	}
	l, _ := libraries.LoadOrStore(path, &library{life: newLife(), sought: map[string]time.Time{}, adding: newTurn()})
	return l.(*library)
}

// ErrModule: a file is no PKCS#11 module that this machine can load.
var ErrModule = errors.New("hsm: it cannot be loaded as a PKCS#11 module")

// leave closes the sessions of a token; the last one ends the library.
func (l *library) leave(ctx context.Context, t *Token) error {
	if err := l.life.Lock(ctx); err != nil {
		return err
	}
	defer l.life.Unlock()
	if t.sealed == errClosed { //nolint:errorlint // the very value
		return nil
	}
	if t.usable() == nil {
		_ = l.ctx.CloseAllSessions(t.slot)
	}
	t.sealed = errClosed
	t.forgetAll()
	l.tokens = slices.DeleteFunc(l.tokens, func(o *Token) bool { return o == t })
	l.endUnused()
	return nil
}

// endUnused finalises and unloads a library that has no token. The caller holds life for
// writing.
func (l *library) endUnused() {
	if len(l.tokens) == 0 {
		_ = l.ctx.Finalize()
		l.ctx.Destroy()
		l.ctx = nil
	}
}

// begin loads and initialises a library that has no token. The caller holds life for
// writing.
func (l *library) begin(cfg Config) error {
	ctx := pkcs11.New(cfg.Module)
	if ctx == nil {
		return fmt.Errorf("%w: %s", ErrModule, cfg.Module)
	}
	if err := initialize(ctx, cfg.InitArgs); err != nil {
		ctx.Destroy()
		return err
	}
	l.ctx, l.args = ctx, cfg.InitArgs
	l.epoch++
	return nil
}

// add opens a token in its library, one at a time. A library that is in use already may
// know only the tokens that were there when it was initialised, so a token that it does not
// find is looked for once more in a new life, which the others pay with their session objects.
func (l *library) add(ctx context.Context, t *Token) error {
	if err := l.adding.take(ctx); err != nil {
		return err
	}
	defer l.adding.pass()
	anew, err := l.admit(ctx, t, true)
	if anew {
		_, err = l.admit(ctx, t, false)
	}
	return err
}

// admit opens a token beside the others, or begins the library for the first one, and makes
// it one of the library's. anew says that the library began a new life instead.
func (l *library) admit(ctx context.Context, t *Token, mayRestart bool) (anew bool, err error) {
	if l.life.hung.Load() > 0 {
		return false, errHangs // nobody becomes one of the library's, and a PIN for that is wasted
	}
	epoch, err := l.beside(ctx, t)
	if t.sealed != nil {
		return false, err // its PIN is presented no second time, whatever comes of the lock
	}
	if lerr := l.life.Lock(ctx); lerr != nil {
		if err == nil {
			l.undo(t, epoch)
		}
		return false, lerr
	}
	defer l.life.Unlock()
	if epoch != l.epoch || len(l.tokens) == 0 { // nothing was opened, or it ended since
		if err = l.ready(t.cfg); err != nil {
			return false, err
		}
		t.ctx = newCounted(l.ctx)
		err = t.openSessions()
	}
	switch {
	case err == nil && t.opening.CompareAndSwap(presented, joined):
		l.tokens = append(l.tokens, t)
		delete(l.sought, t.cfg.Label)
	case err == nil:
		_ = l.ctx.CloseAllSessions(t.slot)
		err = givenUp(ctx)
	case mayRestart && t.sealed == nil && heard(ctx) == nil && l.seeks(t, err):
		t.cfg.Logger.Warn("token not found, connecting all of its module again", slog.String("token", t.cfg.Label))
		err = l.restart()
		return err == nil, err
	}
	l.endUnused()
	return false, err
}

// beside opens a token while the others work, so that a call of it that hangs stops none of
// them. It returns the life of the library in which it did, 0 if it opened nothing.
func (l *library) beside(ctx context.Context, t *Token) (epoch uint64, err error) {
	if err := l.life.RLock(ctx); err != nil {
		return 0, err
	}
	defer l.life.RUnlock()
	if len(l.tokens) == 0 || l.fits(t.cfg) != nil {
		return 0, nil
	}
	t.ctx = newCounted(l.ctx)
	return l.epoch, t.openSessions()
}

// undo closes what was opened beside others for a token that does not become one of them. One
// that was not found has no slot: its number would be another's.
func (l *library) undo(t *Token, epoch uint64) {
	if l.life.RLock(context.Background()) != nil {
		return
	}
	defer l.life.RUnlock()
	if len(l.tokens) > 0 && epoch == l.epoch {
		_ = l.ctx.CloseAllSessions(t.slot)
	}
}

// ready begins a library that has no token, and looks that another can be open beside those
// that it has. The caller holds life for writing.
func (l *library) ready(cfg Config) error {
	if len(l.tokens) == 0 {
		return l.begin(cfg)
	}
	return l.fits(cfg)
}

// fits looks that a token can be open beside those that are. The caller holds life.
func (l *library) fits(cfg Config) error {
	if l.args != cfg.InitArgs {
		return fmt.Errorf("hsm: %s is in use with another reserved string of C_Initialize", cfg.Module)
	}
	if slices.ContainsFunc(l.tokens, func(o *Token) bool { return o.cfg.Label == cfg.Label }) {
		return fmt.Errorf("hsm: the token %q is open already", cfg.Label)
	}
	return nil
}

// seekPause is how long a token that stays away is looked for in no new life of a library
// while another token of it holds what was agreed on with cards: that ends with each life,
// and cannot be made again.
const seekPause = 15 * time.Minute

// seeks reports whether the library may begin anew to find a token that did not open. The
// caller holds life for writing.
func (l *library) seeks(t *Token, err error) bool {
	if len(l.tokens) == 0 || !Away(err) {
		return false
	}
	last, sought := l.sought[t.cfg.Label]
	holds := func(o *Token) bool { return o.fleeting.live() > 0 }
	if sought && time.Since(last) < seekPause && slices.ContainsFunc(l.tokens, holds) {
		return false
	}
	l.sought[t.cfg.Label] = time.Now()
	return true
}

// restart finalises and initialises the library and opens each of its tokens again: every
// handle is forgotten. One that does not open is away, and keeps no other from serving.
// The error is that of the library as a whole. The caller holds life for writing.
func (l *library) restart() error {
	for _, t := range l.tokens {
		t.forgetAll()
	}
	_ = l.ctx.Finalize()
	err := initialize(l.ctx, l.args)
	if err == nil {
		l.epoch++
	}
	for _, t := range l.tokens {
		if t.sealed != nil {
			continue
		}
		if t.away = err; err == nil {
			t.away = t.openSessions()
		}
	}
	return err
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
