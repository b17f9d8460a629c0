package hsm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var (
	_ derive.TDEAToken = (*Token)(nil)
	_ derive.Wrapper   = (*Token)(nil)
)

// zeroIV is the parameter of every CBC encryption; 3DES takes the first half.
var zeroIV = make([]byte, 16)

// encryptionOf returns CBC with a zero IV for a key of this algorithm.
func encryptionOf(a key.Algorithm) []*pkcs11.Mechanism {
	if a.TDEA() {
		return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_DES3_CBC, zeroIV[:8])}
	}
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, zeroIV)}
}

// acquire returns the live object of k with a reference that the caller
// releases, deriving it and what it follows from as needed. The caller holds
// life for reading and owns session s.
func (t *Token) acquire(ctx context.Context, s pkcs11.SessionHandle, k *derive.Key) (*object, error) {
	if k.Parent() == nil {
		return t.root(s, k)
	}
	if o := t.objects.get(k); o != nil {
		return o, nil
	}
	if !k.Parent().Class().Derives() {
		return nil, fmt.Errorf("hsm: a key of class %d derives nothing", k.Parent().Class())
	}
	base, err := t.acquire(ctx, s, k.Parent())
	if err != nil {
		return nil, err
	}
	defer t.objects.release(base)
	o, err := t.deriveObject(ctx, s, base, k)
	if err != nil {
		return nil, err
	}
	return t.objects.put(o), nil
}

// deriveObject makes the object of k from its parent's and reads back what
// protects it before anybody can use it.
func (t *Token) deriveObject(ctx context.Context, s pkcs11.SessionHandle, base *object, k *derive.Key) (*object, error) {
	step := k.Step()
	from, mech, done, err := t.derivation(s, base, step)
	if err != nil {
		return nil, err
	}
	defer done()
	template := t.plan.template(step.Class, step.Algorithm, false, size(step.Algorithm)...)
	w, h, err := t.inOwner(ctx, k, func(own pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
		h, err := t.ctx.DeriveKey(own, []*pkcs11.Mechanism{mech}, from, template)
		return h, failed("C_DeriveKey", err)
	})
	if err != nil {
		return nil, err
	}
	if err := t.verifyDerived(s, h, step); err != nil {
		_ = t.ctx.DestroyObject(s, h)
		return nil, err
	}
	return &object{handle: h, key: k, owner: w}, nil
}

// inOwner makes the object of k in a session that such objects live as long as. One that is
// found spoilt is replaced.
func (t *Token) inOwner(ctx context.Context, k *derive.Key, create func(pkcs11.SessionHandle) (pkcs11.ObjectHandle, error)) (w *owner, h pkcs11.ObjectHandle, err error) {
	if w, err = t.ownerFor(ctx, k); err != nil {
		return nil, 0, err
	}
	used := w.handle
	func() {
		defer w.pass()
		h, err = create(used)
	}()
	if remedyFor(err) == newSession {
		t.replaceOwner(ctx, w, used)
	}
	return w, h, err
}

// ownerFor takes a session that nobody derives in, if there is one: a call that hangs
// keeps one of them.
func (t *Token) ownerFor(ctx context.Context, k *derive.Key) (*owner, error) {
	first := int(k.ID()[0]) % len(t.owners)
	for i := range t.owners {
		if w := t.owners[(first+i)%len(t.owners)]; w.try() {
			return w, nil
		}
	}
	w := t.owners[first]
	return w, w.take(ctx)
}

// verifyDerived reads back what protects a derived object: every attribute of its
// template for the first of its kind in a life of the library, afterwards those
// that would let its value out. The token made the rest from the same template.
func (t *Token) verifyDerived(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, step derive.Step) error {
	kind := derivedKind{t.epoch, step.Class, step.Algorithm}
	if _, seen := t.kinds.Load(kind); !seen {
		if err := t.plan.verify(t.ctx, s, h, step.Class, step.Algorithm, false); err != nil {
			return err
		}
		t.kinds.Store(kind, true)
	}
	return compareAttributes(t.ctx, s, h, append(size(step.Algorithm),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, t.plan.roleOf(step.Class, step.Algorithm, false).extractable)))
}

// derivedKind is what derived objects with one template have in common.
type derivedKind struct {
	epoch     uint64
	class     derive.Class
	algorithm key.Algorithm
}

// replaceOwner opens a new session for an owner whose session was found spoilt,
// after forgetting the objects that end with the old one. Of several goroutines
// that found it so, only the first replaces it: a later one would end objects
// that others made since.
func (t *Token) replaceOwner(ctx context.Context, w *owner, spoilt pkcs11.SessionHandle) {
	if w.take(ctx) != nil {
		return
	}
	defer w.pass()
	if w.handle != spoilt {
		return
	}
	t.objects.forgetOwned(w)
	t.fleeting.forgetOwned(w)
	_ = t.ctx.CloseSession(w.handle)
	if h, err := t.openSession(); err == nil {
		w.handle = h
	}
}

// derivation returns the object that the token derives from by a step, and how. done lets
// go of what that needed.
func (t *Token) derivation(s pkcs11.SessionHandle, base *object, step derive.Step) (from pkcs11.ObjectHandle, m *pkcs11.Mechanism, done func(), err error) {
	agreed := base.key.Class() == derive.Agreed
	switch {
	case agreed != (step.Function == derive.X963):
		return 0, nil, nil, fmt.Errorf("hsm: a key of class %d does not derive by function %d", base.key.Class(), step.Function)
	case agreed:
		return t.pieceOf(s, base, step)
	}
	m, done, err = t.mechanism(s, base, step)
	return base.handle, m, done, err
}

// mechanism returns how the token derives by a step, and a function that lets go
// of the parameter's memory.
func (t *Token) mechanism(s pkcs11.SessionHandle, base *object, step derive.Step) (*pkcs11.Mechanism, func(), error) {
	a := base.key.Algorithm()
	// NSS's native mechanism refuses an extractable key from a base that is not,
	// which a new card key on its way must be; that one is composed.
	if step.Function == derive.CMACCounter && t.plan.native && !a.TDEA() && step.Class != derive.Transport {
		m, done := counterMechanism(step.Before, step.After)
		return m, done, nil
	}
	switch step.Function {
	case derive.CBC:
		return cbcMechanism(base.key, step)
	case derive.XOR:
		return t.xorMechanism(base, step)
	}
	data, err := t.ecbInput(s, base, step)
	if err != nil {
		return nil, nil, err
	}
	m, done := stringDataMechanism(ecbMechanism(a), data)
	return m, done, nil
}

// cbcMechanism returns the derivation by CBC, which only card keys of SCP02 allow.
func cbcMechanism(base *derive.Key, step derive.Step) (*pkcs11.Mechanism, func(), error) {
	if base.Class() != derive.StaticCBC || !base.Algorithm().TDEA() {
		return nil, nil, fmt.Errorf("hsm: a %s key of class %d does not derive by CBC", base.Algorithm(), base.Class())
	}
	if len(step.Messages) != 1 || len(step.Messages[0]) == 0 {
		return nil, nil, errors.New("hsm: a derivation by CBC has one message")
	}
	m, done := cbcTDEAMechanism(step.Messages[0])
	return m, done, nil
}

// xorMechanism returns the derivation by an exclusive or, which is for 3DES keys that are
// session objects: what follows from a master of the token is never its relation.
func (t *Token) xorMechanism(base *object, step derive.Step) (*pkcs11.Mechanism, func(), error) {
	if !t.plan.xor {
		return nil, nil, fault.New(fault.TokenUnable, "the token has no exclusive or with a key inside (CKM_XOR_BASE_AND_DATA)")
	}
	if k := base.key; base.owner == nil || k.Class() != derive.Static || k.Algorithm() != step.Algorithm || !step.Counts() {
		return nil, nil, fmt.Errorf("hsm: a %s key of class %d does not derive by this exclusive or", k.Algorithm(), k.Class())
	}
	m, done := stringDataMechanism(pkcs11.CKM_XOR_BASE_AND_DATA, step.Messages[0])
	return m, done, nil
}

// ecbInput returns the blocks whose encryption under base is the derived value;
// the token keeps as many leading bytes as the key needs.
func (t *Token) ecbInput(s pkcs11.SessionHandle, base *object, step derive.Step) ([]byte, error) {
	switch step.Function {
	case derive.ECB:
		return step.Messages[0], nil
	case derive.CMACCounter:
		return t.lastBlocks(s, base, step.Inputs(base.key.Algorithm()), 1)
	case derive.CMACTwoBlocks:
		return t.lastBlocks(s, base, step.Messages, 2)
	}
	return nil, fmt.Errorf("hsm: no derivation function %d", step.Function)
}

// require refuses a key of another class before the token sees it.
func require(k *derive.Key, classes ...derive.Class) error {
	for _, c := range classes {
		if k.Class() == c {
			return nil
		}
	}
	return fmt.Errorf("hsm: a key of class %d is used as one of %v", k.Class(), classes)
}

// MAC implements derive.Token.
func (t *Token) MAC(ctx context.Context, k *derive.Key, message []byte) (mac []byte, err error) {
	if err := require(k, derive.SessionMAC); err != nil {
		return nil, err
	}
	mac, err = answer(ctx, t, k, func(_ context.Context, s pkcs11.SessionHandle, o *object) ([]byte, error) {
		return t.sign(s, o.handle, pkcs11.CKM_AES_CMAC, message)
	})
	if err == nil && len(mac) != 16 {
		return nil, fmt.Errorf("hsm: the token computed a CMAC of %d bytes", len(mac))
	}
	return mac, err
}

func (t *Token) sign(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, mech uint, message []byte) ([]byte, error) {
	if err := t.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, h); err != nil {
		return nil, failed("C_SignInit", err)
	}
	out, err := t.ctx.Sign(s, message)
	return out, failed("C_Sign", err)
}

// Encrypt implements derive.Token.
func (t *Token) Encrypt(ctx context.Context, k *derive.Key, data []byte) ([]byte, error) {
	if err := require(k, derive.SessionENC, derive.PackageENC); err != nil {
		return nil, err
	}
	if n := derive.BlockSize(k.Algorithm()); len(data) == 0 || len(data)%n != 0 {
		return nil, fmt.Errorf("hsm: CBC takes whole blocks of %d, not %d bytes", n, len(data))
	}
	return answer(ctx, t, k, func(_ context.Context, s pkcs11.SessionHandle, o *object) ([]byte, error) {
		return t.encryptCBC(s, o, data)
	})
}

// encryptCBC is CBC with a zero IV.
func (t *Token) encryptCBC(s pkcs11.SessionHandle, o *object, data []byte) ([]byte, error) {
	if err := t.ctx.EncryptInit(s, encryptionOf(o.key.Algorithm()), o.handle); err != nil {
		return nil, failed("C_EncryptInit", err)
	}
	out, err := t.ctx.Encrypt(s, data)
	return out, failed("C_Encrypt", err)
}

// Decrypt implements derive.Token.
func (t *Token) Decrypt(ctx context.Context, k *derive.Key, iv, data []byte) ([]byte, error) {
	if err := require(k, derive.SessionENC); err != nil {
		return nil, err
	}
	if k.Algorithm().TDEA() {
		return nil, errors.New("hsm: no protocol decrypts with a 3DES key")
	}
	if len(iv) != 16 || len(data) == 0 || len(data)%16 != 0 {
		return nil, fmt.Errorf("hsm: AES-CBC takes whole blocks, not %d bytes", len(data))
	}
	return answer(ctx, t, k, func(_ context.Context, s pkcs11.SessionHandle, o *object) ([]byte, error) {
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, iv)}
		if err := t.ctx.DecryptInit(s, m, o.handle); err != nil {
			return nil, failed("C_DecryptInit", err)
		}
		out, err := t.ctx.Decrypt(s, data)
		return out, failed("C_Decrypt", err)
	})
}

// RetailMAC implements derive.TDEAToken. The chaining value of single DES that goes
// from the first call to the second stays in this function.
func (t *Token) RetailMAC(ctx context.Context, k derive.RetailKey, message []byte) (mac []byte, err error) {
	if k.Whole() == nil || k.Left() == nil {
		return nil, errors.New("hsm: the key of a retail MAC is missing")
	}
	if err := errors.Join(require(k.Whole(), derive.SessionRetail), require(k.Left(), derive.SessionRetailLeft)); err != nil {
		return nil, err
	}
	if len(message) == 0 || len(message)%8 != 0 {
		return nil, fmt.Errorf("hsm: the retail MAC takes whole blocks, not %d bytes", len(message))
	}
	mac, err = answer(ctx, t, k.Whole(), func(ctx context.Context, s pkcs11.SessionHandle, whole *object) ([]byte, error) {
		return t.retail(ctx, s, whole, k.Left(), message)
	})
	if err == nil && len(mac) != 8 {
		return nil, fmt.Errorf("hsm: the token computed a retail MAC of %d bytes", len(mac))
	}
	return mac, err
}

// retail computes the chain under the left half and the last block under the whole:
// [9797-1] ISO/IEC 9797-1:2011, Section 7.4.
func (t *Token) retail(ctx context.Context, s pkcs11.SessionHandle, whole *object, leftKey *derive.Key, message []byte) ([]byte, error) {
	cut := len(message) - 8
	last := bytes.Clone(message[cut:])
	if cut > 0 {
		left, err := t.acquire(ctx, s, leftKey)
		if err != nil {
			return nil, err
		}
		defer t.objects.release(left)
		x, err := t.encryptCBC(s, left, message[:cut])
		if err != nil {
			return nil, err
		}
		if len(x) != cut {
			return nil, errors.New("hsm: the token encrypted to another length")
		}
		subtle.XORBytes(last, last, x[cut-8:])
		clear(x)
	}
	defer clear(last)
	return t.encryptCBC(s, whole, last)
}

// Matches implements derive.Token. Under the native plan the token derives a
// generic secret of the value's length, and an HMAC under it is compared with an
// HMAC under the public value; under the composed plan the bytes are compared.
func (t *Token) Matches(ctx context.Context, base *derive.Key, step derive.Step, value []byte) (bool, error) {
	if err := require(base, derive.Static); err != nil {
		return false, err
	}
	if len(value) == 0 {
		return false, errors.New("hsm: nothing to compare: every key begins with no bytes")
	}
	return answer(ctx, t, base, func(_ context.Context, s pkcs11.SessionHandle, o *object) (bool, error) {
		if t.plan.native && step.Function == derive.CMACCounter {
			return t.matchesNative(s, o, step, value)
		}
		x, err := t.ecbInput(s, o, step)
		if err != nil {
			return false, err
		}
		out, err := t.encryptBlocks(s, o, x)
		if err != nil {
			return false, err
		}
		defer clear(out)
		return len(out) >= len(value) && subtle.ConstantTimeCompare(out[:len(value)], value) == 1, nil
	})
}

// Challenge implements derive.Challenger. Under the native plan the token derives the
// value as a readable generic secret, which some tokens do not make of a key that is
// never extractable.
func (t *Token) Challenge(ctx context.Context, base *derive.Key, step derive.Step) ([]byte, error) {
	n := step.Challenge()
	if n == 0 {
		return nil, errors.New("hsm: this derivation does not give a card challenge")
	}
	if err := require(base, derive.Static); err != nil {
		return nil, err
	}
	return answer(ctx, t, base, func(_ context.Context, s pkcs11.SessionHandle, o *object) ([]byte, error) {
		if t.plan.native {
			return t.challengeNative(s, o, step, n)
		}
		x, err := t.ecbInput(s, o, step)
		if err != nil {
			return nil, err
		}
		block, err := t.encryptBlocks(s, o, x)
		if err != nil {
			return nil, err
		}
		return block[:n:n], nil
	})
}

func (t *Token) challengeNative(s pkcs11.SessionHandle, base *object, step derive.Step, n int) ([]byte, error) {
	m, done := counterMechanism(step.Before, step.After)
	defer done()
	h, err := t.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base.handle, readableTemplate(n))
	if err != nil {
		return nil, fault.Because(fault.TokenUnable, "the token does not give out a card challenge that it derives", failed("C_DeriveKey", err))
	}
	return t.readOnce(s, h, n)
}

func (t *Token) matchesNative(s pkcs11.SessionHandle, base *object, step derive.Step, value []byte) (bool, error) {
	m, done := counterMechanism(step.Before, step.After)
	defer done()
	h, err := t.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, len(value)),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	})
	if err != nil {
		return false, failed("C_DeriveKey", err)
	}
	message := []byte("cardkms public value check")
	got, err := t.sign(s, h, pkcs11.CKM_SHA256_HMAC, message)
	_ = t.ctx.DestroyObject(s, h)
	if err != nil {
		return false, err
	}
	want := hmac.New(sha256.New, value)
	want.Write(message)
	return hmac.Equal(got, want.Sum(nil)), nil
}

// Wrap implements derive.Wrapper. Tokens that cannot wrap this size answer with
// fault.TokenUnable.
func (t *Token) Wrap(ctx context.Context, dek, k *derive.Key) (out []byte, err error) {
	if err := require(dek, derive.DataEncryption); err != nil {
		return nil, err
	}
	if err := require(k, derive.Transport); err != nil {
		return nil, err
	}
	if dek.Algorithm().TDEA() && !k.Algorithm().TDEA() {
		// [AmdD], Section 3: a key travels under one that is at least as strong.
		return nil, fault.New(fault.InvalidInput, "an AES key does not travel under 3DES")
	}
	out, err = answer(ctx, t, dek, func(ctx context.Context, s pkcs11.SessionHandle, o *object) ([]byte, error) {
		transport, err := t.acquire(ctx, s, k)
		if err != nil {
			return nil, err
		}
		defer t.objects.release(transport)
		out, err := t.ctx.WrapKey(s, wrapping(dek.Algorithm()), o.handle, transport.handle)
		return out, failed("C_WrapKey", err)
	})
	t.Release(k)
	// SoftHSM2 answers CKR_GENERAL_ERROR to a size that it cannot wrap, which says
	// nothing; a token that is busy or lost is another matter.
	var ckr *Error
	if size := k.Algorithm().Size(); size%16 != 0 && errors.As(err, &ckr) && remedyFor(err) == giveUp {
		return nil, fault.Because(fault.TokenUnable, fmt.Sprintf("the token cannot wrap a key of %d bytes", size), err)
	}
	return out, err
}

// wrapping returns the mechanism by which a DataEncryption key wraps.
func wrapping(a key.Algorithm) []*pkcs11.Mechanism {
	m := wrapMechanism(a)
	if m == pkcs11.CKM_DES3_ECB {
		return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)}
	}
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, zeroIV)}
}

// KCV implements derive.Wrapper. The value of a key that does not itself derive is
// checked through a Static twin of the same recipe.
func (t *Token) KCV(ctx context.Context, k *derive.Key) (key.KCV, error) {
	if k.Class() == derive.Agreed {
		return key.KCV{}, errNoKCV
	}
	if !k.Class().Derives() {
		if k = t.twin(k); k == nil {
			return key.KCV{}, errNoKCV
		}
		defer t.Release(k)
	}
	return answer(ctx, t, k, func(_ context.Context, s pkcs11.SessionHandle, o *object) (key.KCV, error) { return t.staticKCV(s, o) })
}

var errNoKCV = fault.New(fault.TokenUnable, "a key of this class has no check value")

// twin returns the Static key of the same value as k, nil where there is none.
func (t *Token) twin(k *derive.Key) *derive.Key {
	if k.Parent() == nil {
		return t.roots.twin(k)
	}
	s := k.Step()
	s.Class = derive.Static
	return k.Parent().Derive(s)
}

// staticKCV computes a check value: 3 bytes of E over the method's block.
// [GPCS] GlobalPlatform Card Specification 2.3, Section B.6.
func (t *Token) staticKCV(s pkcs11.SessionHandle, o *object) (key.KCV, error) {
	a := o.key.Algorithm()
	block := make([]byte, derive.BlockSize(a))
	if !a.TDEA() {
		for i := range block {
			block[i] = 0x01
		}
	}
	enc, err := t.encryptBlocks(s, o, block)
	if err != nil {
		return key.KCV{}, err
	}
	defer clear(enc)
	return key.KCV{Method: key.MethodFor(a), Value: apdu.Hex(enc[:3])}, nil
}

// Random returns n bytes of the token's random number generator.
func (t *Token) Random(ctx context.Context, n int) (out []byte, err error) {
	out, err = answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) ([]byte, error) {
		out, err := t.ctx.GenerateRandom(s, n)
		return out, failed("C_GenerateRandom", err)
	})
	if err == nil && len(out) != n {
		return nil, fmt.Errorf("hsm: the token gave %d random bytes instead of %d", len(out), n)
	}
	return out, err
}
