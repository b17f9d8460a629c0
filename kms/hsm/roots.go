package hsm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

// roots knows the token objects that were found in this life of the library,
// and the session objects that a vector run imported.
type roots struct {
	mu    sync.Mutex
	found map[string]*object // by label
	twins map[string]*derive.Key
}

func (r *roots) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.found {
		o.oracle.wipe()
	}
	clear(r.found)
	clear(r.twins)
}

func (r *roots) get(label string) *object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found[label]
}

// put returns the object of a root that was found: o, or what somebody found before.
func (r *roots) put(label string, o *object) *object {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found == nil {
		r.found = map[string]*object{}
	}
	if had := r.found[label]; had != nil {
		o.oracle.wipe()
		return had
	}
	r.found[label] = o
	return o
}

// drop forgets a root whose object was destroyed.
func (r *roots) drop(label string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.found[label]; o != nil {
		o.oracle.wipe()
		delete(r.found, label)
	}
}

func (r *roots) twin(k *derive.Key) *derive.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.twins[k.Root().Label]
}

// rootID returns the CKA_ID that belongs to a label. Both must match, so that an
// object whose label was changed is not taken for another.
func rootID(label string) []byte {
	sum := sha256.Sum256([]byte(label))
	return sum[:16]
}

// root returns the object of a root key, searched once per life of the library (by several
// at a time, if they come before it is found: none waits for another's search, which may
// hang). Two objects of one name, another check value or another template than ours are
// refused.
func (t *Token) root(s pkcs11.SessionHandle, k *derive.Key) (*object, error) {
	r := k.Root()
	if r.Volatile {
		if o := t.fleeting.get(r.Label); o != nil && o.key.ID() == k.ID() {
			return o, nil
		}
		return nil, errEnded
	}
	if o := t.roots.get(r.Label); o != nil {
		if o.key.ID() != k.ID() {
			return nil, fault.New(fault.KeyState, "the token holds another key under the name "+r.Label)
		}
		return o, nil
	}
	class := uint(pkcs11.CKO_SECRET_KEY)
	if r.Class == derive.Agreeing {
		class = pkcs11.CKO_PRIVATE_KEY
	}
	h, err := t.find(s, r.Label, class)
	if err != nil {
		return nil, err
	}
	o := &object{handle: h, key: k}
	if err := t.plan.verify(t.ctx, s, h, r.Class, r.Algorithm, true); err != nil {
		return nil, fmt.Errorf("checking %s: %w", r.Label, err)
	}
	same, err := t.isRoot(s, o)
	if err != nil {
		return nil, fmt.Errorf("checking %s: %w", r.Label, err)
	}
	if !same {
		return nil, fault.New(fault.KeyState, "the token holds another key under the name "+r.Label)
	}
	return t.roots.put(r.Label, o), nil
}

// isRoot compares the check value of an object, and the whole public half of a pair where that
// is known, with those of the root that it was found for.
func (t *Token) isRoot(s pkcs11.SessionHandle, o *object) (bool, error) {
	r := o.key.Root()
	got, err := t.rootKCV(s, o)
	if err != nil || subtle.ConstantTimeCompare([]byte(got.Value), []byte(r.KCV.Value)) != 1 || got.Method != r.KCV.Method {
		return false, err
	}
	if r.Public == "" {
		return true, nil
	}
	public, err := t.public(s, o)
	return err == nil && string(derive.SubjectPublicKeyInfo(public)) == r.Public, err
}

// rootKCV computes the check value of a root by what its class may do.
func (t *Token) rootKCV(s pkcs11.SessionHandle, o *object) (key.KCV, error) {
	if c := o.key.Class(); !c.Derives() && o.key.Algorithm().TDEA() {
		return key.KCV{}, fault.New(fault.InvalidInput, "a 3DES key of this class cannot be a root")
	}
	switch o.key.Class() {
	case derive.Static, derive.StaticCBC:
		return t.staticKCV(s, o)
	case derive.SessionENC, derive.PackageENC:
		enc, err := t.encryptCBC(s, o, ones16)
		return gpKCV(enc, err)
	case derive.DataEncryption:
		return t.wrappingKCV(s, o)
	case derive.Agreeing:
		public, err := t.public(s, o)
		if err != nil {
			return key.KCV{}, err
		}
		return derive.PairKCV(public), nil
	case derive.SessionMAC:
	default:
		return key.KCV{}, fault.New(fault.InvalidInput, "a key of this class cannot be a root")
	}
	// [X9.24-1] ANSI X9.24-1:2017, Annex A.3: CMAC over a zero block.
	mac, err := t.sign(s, o.handle, pkcs11.CKM_AES_CMAC, make([]byte, 16))
	if err != nil {
		return key.KCV{}, err
	}
	return key.KCV{Method: key.KCVCMAC, Value: fmt.Sprintf("%X", mac[:3])}, nil
}

// ones16 is the block of the check value of an AES key.
var ones16 = bytes.Repeat([]byte{0x01}, 16)

func gpKCV(enc []byte, err error) (key.KCV, error) {
	if err != nil || len(enc) < 3 {
		return key.KCV{}, errors.Join(errors.New("hsm: no check value"), err)
	}
	return key.KCV{Method: key.KCVGPAES, Value: fmt.Sprintf("%X", enc[:3])}, nil
}

// wrappingKCV computes the check value of a key that may only wrap: it wraps a
// key whose value is the check value's public block, as one block of CBC with a
// zero IV.
func (t *Token) wrappingKCV(s pkcs11.SessionHandle, o *object) (key.KCV, error) {
	known, err := t.ctx.CreateObject(s, t.plan.template(derive.Transport, key.AES128, false, pkcs11.NewAttribute(pkcs11.CKA_VALUE, ones16)))
	if err != nil {
		return key.KCV{}, failed("C_CreateObject", err)
	}
	defer func() { _ = t.ctx.DestroyObject(s, known) }()
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, zeroIV)}
	enc, err := t.ctx.WrapKey(s, m, o.handle, known)
	return gpKCV(enc, failed("C_WrapKey", err))
}

func (t *Token) find(s pkcs11.SessionHandle, label string, class uint) (pkcs11.ObjectHandle, error) {
	hs, err := t.findAll(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, rootID(label)),
	})
	if err != nil {
		return 0, err
	}
	if len(hs) == 0 && !t.loggedIn(s) {
		// A token that closed every session logged us out and hides its private
		// objects; that is not the absence of a key.
		return 0, &Error{Function: "C_FindObjects", CKR: pkcs11.CKR_USER_NOT_LOGGED_IN}
	}
	if len(hs) != 1 {
		return 0, fault.New(fault.KeyState, fmt.Sprintf("the token holds %d objects named %s, want one", len(hs), label))
	}
	return hs[0], nil
}

func (t *Token) loggedIn(s pkcs11.SessionHandle) bool {
	info, err := t.ctx.GetSessionInfo(s)
	return err == nil && (info.State == pkcs11.CKS_RO_USER_FUNCTIONS || info.State == pkcs11.CKS_RW_USER_FUNCTIONS)
}

// findAll finds one object, or enough to see that it is not alone.
func (t *Token) findAll(s pkcs11.SessionHandle, template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	return t.findUpTo(s, template, 2)
}

func (t *Token) findUpTo(s pkcs11.SessionHandle, template []*pkcs11.Attribute, most int) ([]pkcs11.ObjectHandle, error) {
	if err := t.ctx.FindObjectsInit(s, template); err != nil {
		return nil, failed("C_FindObjectsInit", err)
	}
	var hs []pkcs11.ObjectHandle
	var err error
	for len(hs) < most {
		var some []pkcs11.ObjectHandle
		if some, _, err = t.ctx.FindObjects(s, most-len(hs)); err != nil || len(some) == 0 {
			break
		}
		hs = append(hs, some...)
	}
	if ferr := t.ctx.FindObjectsFinal(s); err == nil {
		err = ferr
	}
	if err == nil && len(hs) == 0 {
		// SoftHSM2 finds nothing in a token that was taken away, which is not an empty one.
		_, err = t.info()
		return nil, err
	}
	return hs, failed("C_FindObjects", err)
}

// name returns label and CKA_ID.
func name(label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, rootID(label)),
	}
}

// Taken reports whether the token holds any object of this label.
func (t *Token) Taken(ctx context.Context, label string) (bool, error) {
	return ceremony(ctx, t, func(_ context.Context, s pkcs11.SessionHandle) (bool, error) { return t.holds(s, label) })
}

func (t *Token) holds(s pkcs11.SessionHandle, label string) (bool, error) {
	hs, err := t.findAll(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
	return len(hs) > 0, err
}

// unused refuses a label that the token has already.
func (t *Token) unused(s pkcs11.SessionHandle, label string) error {
	taken, err := t.holds(s, label)
	if err == nil && taken {
		return fault.New(fault.Conflict, "the token holds a key of this name already")
	}
	return err
}

// Generate makes a root key, or a pair that agrees on secrets, inside the token and returns
// its check value. A label that is in use is fault.Conflict.
func (t *Token) Generate(ctx context.Context, label string, a key.Algorithm, c derive.Class) (derive.Root, error) {
	if c == derive.Agreeing {
		return t.generatePair(ctx, label)
	}
	mech := uint(pkcs11.CKM_AES_KEY_GEN)
	switch a {
	case key.TDEA2:
		mech = pkcs11.CKM_DES2_KEY_GEN
	case key.TDEA3:
		mech = pkcs11.CKM_DES3_KEY_GEN
	}
	return t.create(ctx, label, a, c, key.KCV{}, nil, func(s pkcs11.SessionHandle, p plan) (pkcs11.ObjectHandle, error) {
		template := p.template(c, a, true, append(name(label), size(a)...)...)
		h, err := t.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, template)
		return h, failed("C_GenerateKey", err)
	})
}

// Import makes a root key from a value that a key ceremony combined, wipes the
// value whatever happens, and returns the check value.
func (t *Token) Import(ctx context.Context, label string, a key.Algorithm, c derive.Class, value secret.Bytes) (derive.Root, error) {
	defer value.Wipe()
	if value.Len() != a.Size() {
		return derive.Root{}, fault.New(fault.InvalidInput, fmt.Sprintf("a key of type %s has %d bytes", a, a.Size()))
	}
	if a.TDEA() && weakTDEA(value.Reveal()) {
		return derive.Root{}, fault.New(fault.InvalidInput, "this 3DES key has equal or weak parts and protects no more than DES does")
	}
	copied := lend(value.Reveal())
	defer copied.back()
	return t.create(ctx, label, a, c, key.KCV{}, copied, func(s pkcs11.SessionHandle, p plan) (pkcs11.ObjectHandle, error) {
		v := pkcs11.NewAttribute(pkcs11.CKA_VALUE, copied.value.Reveal())
		h, err := t.ctx.CreateObject(s, p.template(c, a, true, append(name(label), v)...))
		return h, failed("C_CreateObject", err)
	})
}

// maker makes a token object by the templates of this plan.
type maker func(s pkcs11.SessionHandle, p plan) (pkcs11.ObjectHandle, error)

// create makes a root and computes its check value. One that differs from the stated
// one, if that is not empty, is destroyed like one whose attributes are wrong. copied is
// the value that make reads, nil for none.
func (t *Token) create(ctx context.Context, label string, a key.Algorithm, c derive.Class, stated key.KCV, copied *lent, make maker) (derive.Root, error) {
	root := derive.Root{Label: label, Algorithm: a, Class: c}
	if c == derive.Transport {
		return root, fault.New(fault.InvalidInput, "a key of this class cannot be a root")
	}
	return ceremony(ctx, t, func(ctx context.Context, s pkcs11.SessionHandle) (derive.Root, error) {
		root := root
		if copied != nil {
			if err := copied.take(); err != nil {
				return root, err
			}
			defer copied.value.Wipe()
		}
		if err := t.unused(s, label); err != nil {
			return root, err
		}
		h, err := make(s, t.plan)
		first := err
		if remedyFor(err) == giveUp && err != nil {
			// NSS softokn keeps every attribute of a session object, but its database
			// has no place for some. A token that does keep them refuses the result
			// of this in verify.
			h, err = make(s, t.plan.withoutOptional())
		}
		if err != nil {
			return root, err
		}
		if err = t.plan.verify(t.ctx, s, h, c, a, true); err == nil {
			root.KCV, err = t.rootKCV(s, &object{handle: h, key: derive.FromRoot(root)})
		}
		if err == nil && stated != (key.KCV{}) {
			err = matches(root.KCV, stated)
		}
		if err == nil {
			err = heard(ctx)
		}
		if err != nil {
			// Nobody learns the check value of this object, so nobody can ever use
			// it, and its label would stay taken.
			_ = t.ctx.DestroyObject(s, h)
			err = cmp.Or(first, err) // not what only the second attempt lacked
		}
		return root, err
	})
}

// matches compares a check value with the stated one. The answer to a wrong one does
// not say what the right one is.
func matches(got, stated key.KCV) error {
	if got.Method != stated.Method {
		return fault.New(fault.InvalidInput, fmt.Sprintf("the check value of this key is stated by the method %s", got.Method))
	}
	if subtle.ConstantTimeCompare([]byte(got.Value), []byte(stated.Value)) != 1 {
		return fault.New(fault.ProofFailed, "the key check value is not the stated one")
	}
	return nil
}

// Check finds a root in the token and compares what protects it and its check
// value, as the first use would.
func (t *Token) Check(ctx context.Context, r derive.Root) error {
	_, err := answer(ctx, t, derive.FromRoot(r), func(context.Context, pkcs11.SessionHandle, *object) (nothing, error) { return nothing{}, nil })
	return err
}

// Identify finds an object of which nobody knows the check value yet, because the
// ceremony that made it broke off, compares what protects it and returns what it is.
func (t *Token) Identify(ctx context.Context, label string, a key.Algorithm, c derive.Class) (derive.Root, error) {
	return answer(ctx, t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (derive.Root, error) {
		root := derive.Root{Label: label, Algorithm: a, Class: c}
		h, err := t.find(s, label, pkcs11.CKO_SECRET_KEY)
		if err == nil {
			err = checking(label, t.plan.verify(t.ctx, s, h, c, a, true))
		}
		if err != nil {
			return root, err
		}
		root.KCV, err = t.rootKCV(s, &object{handle: h, key: derive.FromRoot(root)})
		return root, err
	})
}

// volatiles counts the imports of this process.
var volatiles atomic.Int64

// ImportVolatile makes a root of a known value as a session object, for known
// answers only: the object ends with the library, cannot be made again after a
// loss, and its twin serves KCV. forget destroys both. Nothing that was derived from
// another value under the same label serves it: a number makes each label its own.
func (t *Token) ImportVolatile(ctx context.Context, label string, a key.Algorithm, c derive.Class, value []byte) (k *derive.Key, forget func(), err error) {
	if c == derive.Agreeing {
		return t.importPair(ctx, label, value)
	}
	if len(value) != a.Size() {
		return nil, nil, fault.New(fault.InvalidInput, fmt.Sprintf("a key of type %s has %d bytes", a, a.Size()))
	}
	label = fmt.Sprintf("%s.%d", label, volatiles.Add(1))
	root := derive.FromRoot(derive.Root{Label: label, Algorithm: a, Class: c})
	twin := derive.FromRoot(derive.Root{Label: label + "#twin", Algorithm: a, Class: derive.Static})
	own := bytes.Clone(value) // which the caller may wipe while a call that he gave up goes on
	objects, err := answer(ctx, t, nil, func(ctx context.Context, _ pkcs11.SessionHandle, _ *object) (made []*object, err error) {
		for _, k := range []*derive.Key{root, twin} {
			o, err := t.volatile(ctx, k, own)
			if err != nil {
				return made, err
			}
			made = append(made, o)
		}
		return made, nil
	})
	if err != nil {
		t.dropVolatile(objects)
		return nil, nil, err
	}
	clear(own)
	t.roots.mu.Lock()
	defer t.roots.mu.Unlock()
	if t.roots.twins == nil {
		t.roots.twins = map[string]*derive.Key{}
	}
	t.roots.twins[label] = twin
	return root, func() { t.dropVolatile(objects) }, nil
}

func (t *Token) volatile(ctx context.Context, k *derive.Key, value []byte) (*object, error) {
	template := t.plan.template(k.Class(), k.Algorithm(), false, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
	w := t.owners[0]
	if err := w.take(ctx); err != nil {
		return nil, err
	}
	defer w.pass()
	h, err := t.ctx.CreateObject(w.handle, template)
	if err != nil {
		return nil, failed("C_CreateObject", err)
	}
	o := &object{handle: h, key: k, owner: w}
	t.roots.drop(k.Root().Label) // of an attempt before
	return t.roots.put(k.Root().Label, o), nil
}

func (t *Token) dropVolatile(objects []*object) {
	defer t.tidy()
	t.roots.mu.Lock()
	defer t.roots.mu.Unlock()
	for _, o := range objects {
		if t.roots.found[o.key.Root().Label] != o {
			continue // of an earlier life of the library: its handle is another object's now
		}
		delete(t.roots.found, o.key.Root().Label)
		delete(t.roots.twins, o.key.Root().Label)
		t.objects.discard(o) // while nobody forgets the roots, and then the garbage
	}
}

// labelsMax bounds how many key objects Labels reads.
const labelsMax = 100_000

// Labels returns the labels of all private and secret keys that live in the token,
// sorted.
func (t *Token) Labels(ctx context.Context) ([]string, error) {
	labels, err := answerWithin(ctx, t, t.slowly(), nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (labels []string, err error) {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
			hs, err := t.findUpTo(s, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			}, labelsMax)
			if err != nil {
				return nil, err
			}
			for _, h := range hs {
				got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
				if err != nil {
					return nil, failed("C_GetAttributeValue", err)
				}
				labels = append(labels, string(got[0].Value))
			}
		}
		return labels, nil
	})
	slices.Sort(labels)
	return labels, err
}
