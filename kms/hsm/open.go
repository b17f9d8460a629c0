package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
)

// Values of Token.opening.
const (
	waitedFor int32 = iota
	presented       // the PIN was, and who waits has not heard what became of it
	joined          // the token is open
	abandoned       // nobody waits: no PIN is presented any more, and what was opened is closed
)

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
	t := &Token{library: libraryOf(cfg.Module), cfg: cfg, calls: make(chan struct{}, callsMax)}
	t.objects.init(cfg.Objects)
	if err := t.join(ctx); err != nil {
		return nil, fmt.Errorf("opening the token %q: %w", cfg.Label, err)
	}
	if err := t.detect(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("finding out what the token %q can do: %w", cfg.Label, err)
	}
	return t, nil
}

// join opens the sessions of a token, and waits for that as for any operation. What comes
// back after it was given up closes what it opened, and presents no PIN if it had not yet.
func (t *Token) join(ctx context.Context) error {
	heard, err := hand(ctx, t, t.slowly(), func(ctx context.Context) (error, error) { return t.add(ctx, t), nil })
	if err == nil {
		return heard
	}
	switch t.opening.Swap(abandoned) {
	case joined:
		return nil // at the last moment
	case presented:
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return err
}

// PINRefused reports whether an error of Open says that the token refused its PIN: then
// another attempt could lock it.
func PINRefused(err error) bool { return remedyFor(err) == stop }

// PINUnanswered reports whether an error of Open says that the token was given its PIN and
// has not answered: whether it refused it is not known, and another attempt could lock it.
func PINUnanswered(err error) bool { return errors.Is(err, errUnanswered) }

var errUnanswered = errors.New("the token has not answered to its PIN")

// Away reports whether an error of Open says that the token is not there now.
func Away(err error) bool { return errors.Is(err, errNoToken) || remedyFor(err) == reconnect }

// openSessions finds the token and logs in. What was opened is closed again where it
// fails: the library may go on with other tokens. The caller holds life for writing, or
// shares it and nobody else knows t yet.
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

// login presents the PIN once: a token may lock after a few wrong ones. So what the token
// was too late to say, unless it is yes, is as good as a refusal: whoever waited has
// given up, and does not know how often the PIN was tried. The time that counts is the
// token's alone: what the library or the source of the PIN took before says nothing of it.
func (t *Token) login() error {
	pin := t.cfg.PIN
	if t.cfg.PINSource != nil {
		var err error
		if pin, err = t.cfg.PINSource(); err != nil {
			return fmt.Errorf("getting the PIN: %w", err)
		}
		defer pin.Wipe() // when C_Login came back, however late
	}
	t.opening.CompareAndSwap(waitedFor, presented)
	if t.opening.Load() == abandoned {
		return errHangs
	}
	began := time.Now()
	err := failed("C_Login", t.ctx.Login(t.anchor, pkcs11.CKU_USER, string(pin.Reveal())))
	switch {
	case err == nil:
	case remedyFor(err) == stop:
		t.sealed = fault.Because(fault.TokenUnavailable, "the token refused its PIN", err)
	case time.Since(began) > t.cfg.CallWait:
		err = fmt.Errorf("%w in time: %w", errUnanswered, err)
		t.sealed = fault.Because(fault.TokenUnavailable, "the token did not answer to its PIN in time, which is not presented again before a restart", err)
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
