package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
)

// anchorsMax is how many objects of one name are read: one, and those that a
// process left when it died between making the new and destroying the old.
const anchorsMax = 16

// Anchor keeps one public value as a data object of the token. The value of such
// an object never changes (SoftHSM2 refuses it), so a new object replaces it.
type Anchor struct {
	token *Token
	label string
}

// Anchor returns the anchor of this name. There need not be one yet.
func (t *Token) Anchor(label string) *Anchor { return &Anchor{t, label} }

func (a *Anchor) named() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, a.label),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, "cardkms"),
	}
}

func (a *Anchor) template(value []byte) []*pkcs11.Attribute {
	return locked(append(a.named(),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	))
}

// Newest returns the values that are kept, none if there are none.
func (a *Anchor) Newest(ctx context.Context) ([][]byte, error) {
	return answer(ctx, a.token, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (values [][]byte, err error) {
		hs, err := a.token.findUpTo(s, a.named(), anchorsMax)
		for _, h := range hs {
			got, verr := a.token.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			if verr != nil {
				err = errors.Join(err, failed("C_GetAttributeValue", verr))
				continue
			}
			values = append(values, got[0].Value)
		}
		return values, err
	})
}

// Keep replaces what is kept. If the process dies in between, the old and the new
// value are both there.
func (a *Anchor) Keep(ctx context.Context, value []byte) error {
	return a.token.alone(ctx, func(_ context.Context, s pkcs11.SessionHandle) error {
		old, err := a.token.findUpTo(s, a.named(), anchorsMax)
		if err != nil {
			return err
		}
		if _, err := a.token.ctx.CreateObject(s, a.template(value)); err != nil {
			return failed("C_CreateObject", err)
		}
		for _, h := range old {
			if err := a.token.ctx.DestroyObject(s, h); err != nil {
				return failed("C_DestroyObject", err)
			}
		}
		return nil
	})
}

// Destroy removes the secret key of this label, or the pair, from the token for good and looks
// that it is gone. Nothing that followed from it can be made again.
func (t *Token) Destroy(ctx context.Context, label string) error {
	return t.alone(ctx, func(_ context.Context, s pkcs11.SessionHandle) error {
		if err := t.destroyNamed(s, label); err != nil {
			return err
		}
		t.roots.drop(label)
		held, err := t.holds(s, label)
		if err == nil && held {
			err = fmt.Errorf("hsm: the token still holds %s", label)
		}
		return err
	})
}

// destroyNamed destroys what there is of a pair, also one half of it: whoever is without a PIN
// destroys public objects, and makes some of our names.
func (t *Token) destroyNamed(s pkcs11.SessionHandle, label string) error {
	halves, err := t.destroyHalves(s, label)
	if err != nil {
		return err
	}
	h, err := t.find(s, label, pkcs11.CKO_SECRET_KEY)
	if halves > 0 && fault.CodeOf(err) == fault.KeyState {
		return nil // a pair, and no secret key
	}
	if err != nil {
		return err
	}
	return failed("C_DestroyObject", t.ctx.DestroyObject(s, h))
}

var errAsked = errors.New("to see that a destroyed key does not come back")

// Absent initialises the library again and looks that no object of these labels is
// in the token: one that a token kept in memory, or brings back from its disk,
// would show then.
func (t *Token) Absent(ctx context.Context, labels ...string) error {
	_, err := hand(ctx, t, t.slowly(), func(ctx context.Context) (nothing, error) {
		if err := t.life.Lock(ctx); err != nil {
			return nothing{}, err
		}
		epoch := t.epoch
		t.lastLost = time.Time{} // this is no loss, and waits for no back-off
		t.life.Unlock()
		return nothing{}, t.reconnect(ctx, epoch, errAsked)
	})
	if err != nil {
		return err
	}
	for _, label := range labels {
		taken, err := t.Taken(ctx, label)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.KeyState, "a destroyed object is in the token again: "+label)
		}
	}
	return nil
}
