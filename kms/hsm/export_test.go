package hsm

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
)

// What the tests see of the inside: raw PKCS#11 calls on the token's own library,
// because a second one in the process would share its state.

// Raw returns the library and the token's slot.
func (t *Token) Raw() (*pkcs11.Ctx, uint) { return t.library.ctx, t.slot }

// RootID is the CKA_ID that belongs to a label.
func RootID(label string) []byte { return rootID(label) }

// Template is what the token would be asked to create for a class.
func (t *Token) Template(k *derive.Key, root bool) []*pkcs11.Attribute {
	return t.plan.template(k.Class(), k.Algorithm(), root)
}

// VerifyObject is the read-back of a derived object.
func (t *Token) VerifyObject(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, k *derive.Key) error {
	return t.plan.verify(t.ctx, s, h, k.Class(), k.Algorithm(), false)
}

// Native reports which plan the token runs by; Allowed whether it keeps
// CKA_ALLOWED_MECHANISMS.
func (t *Token) Native() bool  { return t.plan.native }
func (t *Token) Allowed() bool { return t.plan.allowed }

// WithObject runs f with the live object of k, in a session of its own.
func (t *Token) WithObject(k *derive.Key, f func(pkcs11.SessionHandle, pkcs11.ObjectHandle) error) error {
	_ = t.life.RLock(context.Background())
	defer t.life.RUnlock()
	s, err := t.openSession()
	if err != nil {
		return err
	}
	defer func() { _ = t.ctx.CloseSession(s) }()
	o, err := t.acquire(context.Background(), s, k)
	if err != nil {
		return err
	}
	defer t.objects.release(o)
	return f(s, o.handle)
}

// WithFound runs f with the one object that has these attributes.
func (t *Token) WithFound(at []*pkcs11.Attribute, f func(pkcs11.SessionHandle, pkcs11.ObjectHandle) error) error {
	return t.alone(context.Background(), func(_ context.Context, s pkcs11.SessionHandle) error {
		hs, err := t.findAll(s, at)
		if err != nil || len(hs) != 1 {
			return errors.Join(err, errors.New("not one object"))
		}
		return f(s, hs[0])
	})
}

// SessionObjects counts the secret keys that end with a session, as the token
// sees them.
func (t *Token) SessionObjects() (n int, err error) { return t.SessionObjectsOf(pkcs11.CKO_SECRET_KEY) }

// SessionObjectsOf does so for a class of objects.
func (t *Token) SessionObjectsOf(class uint) (n int, err error) {
	_ = t.life.RLock(context.Background())
	defer t.life.RUnlock()
	s, err := t.openSession()
	if err != nil {
		return 0, err
	}
	defer func() { _ = t.ctx.CloseSession(s) }()
	if err := t.ctx.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
	}); err != nil {
		return 0, err
	}
	for {
		hs, _, err := t.ctx.FindObjects(s, 100)
		if n += len(hs); err != nil || len(hs) == 0 {
			return n, errors.Join(err, t.ctx.FindObjectsFinal(s))
		}
	}
}

// Reinitialise reconnects as after a loss, without the back-off.
func (t *Token) Reinitialise() error {
	_ = t.life.Lock(context.Background())
	epoch := t.epoch
	t.lastLost = time.Time{}
	t.life.Unlock()
	return t.reconnect(context.Background(), epoch, errors.New("the test asked for it"))
}

// ForgiveLoss lets the next reconnect happen at once.
func (t *Token) ForgiveLoss() {
	_ = t.life.Lock(context.Background())
	defer t.life.Unlock()
	t.lastLost = time.Time{}
}

// LoseSessions closes every session behind the token's back, as a token does
// that was reset.
func (t *Token) LoseSessions() error {
	_ = t.life.Lock(context.Background())
	defer t.life.Unlock()
	return t.ctx.CloseAllSessions(t.slot)
}

// SpoilSessions leaves an operation active in every operation session.
func (t *Token) SpoilSessions(k *derive.Key) error {
	return t.WithObject(k, func(_ pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		var all []*session // at the same time: what tidies up takes one in between
		for range cap(t.ops) {
			all = append(all, <-t.ops)
		}
		var err error
		for _, s := range all {
			err = errors.Join(err, t.ctx.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CMAC, nil)}, h))
			t.ops <- s
		}
		return err
	})
}

// CloseOwners closes the sessions that own derived objects, and with them every
// derived object.
func (t *Token) CloseOwners() {
	_ = t.life.Lock(context.Background())
	defer t.life.Unlock()
	for _, w := range t.owners {
		_ = t.ctx.CloseSession(w.handle)
	}
}

// HoldSessions leases every operation session until give is called.
func (t *Token) HoldSessions() (give func()) {
	var held []*session
	for range cap(t.ops) {
		held = append(held, <-t.ops)
	}
	return func() {
		for _, s := range held {
			t.ops <- s
		}
	}
}

// StringDataMechanism is CKM_AES_ECB_ENCRYPT_DATA over data.
func StringDataMechanism(data []byte) (*pkcs11.Mechanism, func()) {
	return stringDataMechanism(pkcs11.CKM_AES_ECB_ENCRYPT_DATA, data)
}

// SetLeaseWait changes the longest wait for a session and returns how to restore it.
func (t *Token) SetLeaseWait(d time.Duration) func() {
	_ = t.life.Lock(context.Background())
	defer t.life.Unlock()
	old := t.cfg.LeaseWait
	t.cfg.LeaseWait = d
	return func() { t.SetLeaseWait(old) }
}

// Panic runs an operation that panics, and one that has the token to itself.
func (t *Token) Panic(ctx context.Context) (operation, alone error) {
	_, operation = answer(ctx, t, nil, func(context.Context, pkcs11.SessionHandle, *object) (nothing, error) { panic("a bug") })
	alone = t.alone(ctx, func(context.Context, pkcs11.SessionHandle) error { panic("a bug") })
	return operation, alone
}

// Hung returns how many calls of a module take longer than whoever asked waits.
func Hung(module string) int { return int(libraryOf(module).life.hung.Load()) }

// ReleaseIsWhole reports whether nobody can forget what the token's library held between the
// moment in which Release takes out k, which is volatile, and that in which it is garbage.
func (t *Token) ReleaseIsWhole(k *derive.Key) bool {
	t.objects.mu.Lock() // nothing becomes garbage
	defer t.objects.mu.Unlock()
	go t.Release(k)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if t.fleeting.mu.TryLock() {
			_, there := t.fleeting.found[k.Root().Label]
			t.fleeting.mu.Unlock()
			if !there {
				return false
			}
			continue
		}
		time.Sleep(50 * time.Millisecond) // whoever only looks it up is done by then
		if !t.fleeting.mu.TryLock() {
			return true
		}
		t.fleeting.mu.Unlock()
	}
	return false
}

// Epoch counts the lives of the token's library.
func (t *Token) Epoch() uint64 {
	_ = t.life.RLock(context.Background())
	defer t.life.RUnlock()
	return t.epoch
}
