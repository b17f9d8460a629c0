package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// library is one PKCS#11 library in this process. Its state is global: C_Initialize and
// C_Finalize are for all of its tokens together, and a handle of one of them is a number
// that another may get after the next C_Initialize. So tokens of one library share this.
type library struct {
	ctx  *pkcs11.Ctx
	path string // without symbolic links
	args string // reserved string of C_Initialize

	// life is held for reading by every operation, and for writing while the
	// library is finalised and initialised, so that no call is in flight then.
	life   life
	epoch  uint64   // rises with every initialisation; guarded by life
	tokens []*Token // that are open; guarded by life
}

// libraries are those that have open tokens, by path. The lock is held while a token
// joins or leaves.
var libraries = struct {
	turn
	loaded map[string]*library
}{turn: newTurn(), loaded: map[string]*library{}}

// ErrModule: a file is no PKCS#11 module that this machine can load.
var ErrModule = errors.New("hsm: it cannot be loaded as a PKCS#11 module")

// join opens a token in its library, which is loaded for the first one.
func join(ctx context.Context, cfg Config, t *Token) error {
	path, err := filepath.EvalSymlinks(cfg.Module)
	if err != nil {
		path = cfg.Module // the loader has search paths of its own
	}
	if err := libraries.take(ctx); err != nil {
		return err
	}
	defer libraries.pass()
	l := libraries.loaded[path]
	if l == nil {
		l = &library{path: path, args: cfg.InitArgs, life: newLife(), ctx: pkcs11.New(cfg.Module)}
	}
	if l.ctx == nil {
		return fmt.Errorf("%w: %s", ErrModule, cfg.Module)
	}
	t.library, t.ctx = l, newCounted(l.ctx)
	if err := l.add(ctx, t); err != nil {
		l.endUnused()
		return err
	}
	libraries.loaded[path] = l
	return nil
}

// leave closes the sessions of a token; the last one ends the library.
func (l *library) leave(ctx context.Context, t *Token) error {
	if err := libraries.take(ctx); err != nil {
		return err
	}
	defer libraries.pass()
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
	if len(l.tokens) == 0 {
		_ = l.ctx.Finalize()
	}
	l.endUnused()
	return nil
}

// endUnused unloads a library that has no token. The caller holds the lock of libraries.
func (l *library) endUnused() {
	if len(l.tokens) == 0 {
		l.ctx.Destroy()
		delete(libraries.loaded, l.path)
	}
}

// add opens the sessions of a token. A library that is in use already may know only the
// tokens that were there when it was initialised, so a token that it does not find is
// looked for once more in a new life, which the others pay with their session objects.
func (l *library) add(ctx context.Context, t *Token) error {
	if err := l.life.Lock(ctx); err != nil {
		return err
	}
	defer l.life.Unlock()
	if l.args != t.cfg.InitArgs {
		return fmt.Errorf("hsm: %s is in use with another reserved string of C_Initialize", l.path)
	}
	if slices.ContainsFunc(l.tokens, func(o *Token) bool { return o.cfg.Label == t.cfg.Label }) {
		return fmt.Errorf("hsm: the token %q is open already", t.cfg.Label)
	}
	var err error
	if len(l.tokens) == 0 {
		if err = initialize(l.ctx, l.args); err != nil {
			return err
		}
		l.epoch++
	}
	err = t.openSessions()
	if len(l.tokens) > 0 && (errors.Is(err, errNoToken) || remedyFor(err) == reconnect) {
		if err = l.restart(); err == nil {
			err = t.openSessions()
		}
	}
	if err == nil {
		l.tokens = append(l.tokens, t)
	} else if len(l.tokens) == 0 {
		_ = l.ctx.Finalize()
	}
	return err
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
