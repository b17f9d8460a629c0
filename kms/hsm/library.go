package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
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
}

// libraries are those that tokens were ever opened of, by path without symbolic links. None
// is forgotten: whoever opens a token of one must meet whoever still closes another.
var libraries sync.Map

func libraryOf(module string) *library {
	path, err := filepath.EvalSymlinks(module)
	if err != nil {
		path = module // the loader has search paths of its own
	}
	l, _ := libraries.LoadOrStore(path, &library{life: newLife()})
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

// add opens a token in its library. A library that is in use already may know only the
// tokens that were there when it was initialised, so a token that it does not find is
// looked for once more in a new life, which the others pay with their session objects.
func (l *library) add(ctx context.Context, t *Token) error {
	if err := l.life.Lock(ctx); err != nil {
		return err
	}
	defer l.life.Unlock()
	if err := l.admit(t.cfg); err != nil {
		return err
	}
	t.ctx = newCounted(l.ctx)
	err := t.openSessions()
	if len(l.tokens) > 0 && t.sealed == nil && (errors.Is(err, errNoToken) || remedyFor(err) == reconnect) {
		if err = l.restart(); err == nil {
			err = t.openSessions()
		}
	}
	if err == nil && !t.opening.CompareAndSwap(presented, joined) {
		_ = l.ctx.CloseAllSessions(t.slot)
		err = givenUp(ctx)
	}
	if err == nil {
		l.tokens = append(l.tokens, t)
	}
	l.endUnused()
	return err
}

// admit looks that a token can be open beside those that are; for the first one it begins
// the library. The caller holds life for writing.
func (l *library) admit(cfg Config) error {
	if len(l.tokens) == 0 {
		return l.begin(cfg)
	}
	if l.args != cfg.InitArgs {
		return fmt.Errorf("hsm: %s is in use with another reserved string of C_Initialize", cfg.Module)
	}
	if slices.ContainsFunc(l.tokens, func(o *Token) bool { return o.cfg.Label == cfg.Label }) {
		return fmt.Errorf("hsm: the token %q is open already", cfg.Label)
	}
	return nil
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
