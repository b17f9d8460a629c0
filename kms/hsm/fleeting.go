package hsm

import (
	"context"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// fleeting knows the objects of volatile roots, by label: the token made them once, nothing
// says how to make them again, and so no table gives up one to make room. They end when they
// are released, with the session that owns them, or with the library's life.
type fleeting struct {
	mu    sync.Mutex
	found map[string]*object
}

func (f *fleeting) get(label string) *object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found[label]
}

func (f *fleeting) put(o *object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found == nil {
		f.found = map[string]*object{}
	}
	f.found[o.key.Root().Label] = o
}

// release forgets one, and has it destroyed: while nobody forgets them all, and then the
// garbage. Its handle would be another object's in the next life of the library.
func (f *fleeting) release(label string, objects *table) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.found[label]; o != nil {
		delete(f.found, label)
		objects.discard(o)
	}
}

// forget forgets one whose object is gone.
func (f *fleeting) forget(label string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.found, label)
}

// forgetOwned forgets every one that ended with an owner's session.
func (f *fleeting) forgetOwned(w *owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for label, o := range f.found {
		if o.owner == w {
			delete(f.found, label)
		}
	}
}

func (f *fleeting) forgetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.found)
}

func (f *fleeting) live() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.found)
}

// fleetingRoot names a volatile root that nothing else is named like, in the token that its
// caller calls so.
func fleetingRoot(token, label string, a key.Algorithm, c derive.Class) *derive.Key {
	return derive.FromRoot(derive.Root{Token: token, Label: fmt.Sprintf("%s.%d", label, volatiles.Add(1)), Algorithm: a, Class: c, Volatile: true})
}

// keepFleeting reads back what protects an object that was made just now, and keeps it. It is
// destroyed if that is not what it should be, if something else went wrong before, or if
// nobody waits for it any more: nobody would ever release it.
func (t *Token) keepFleeting(ctx context.Context, s pkcs11.SessionHandle, o *object, before error) error {
	err := before
	if err == nil {
		want := agreedSecret(agreedBytes)
		if o.key.Class() == derive.Agreeing {
			want = t.plan.template(derive.Agreeing, o.key.Algorithm(), false)
		}
		err = compareAttributes(t.ctx, s, o.handle, want)
	}
	if err == nil {
		err = heard(ctx)
	}
	if err != nil {
		_ = t.ctx.DestroyObject(s, o.handle)
		return err
	}
	t.fleeting.put(o)
	return nil
}

// ended says so if a call did not know the handle of a volatile object, which then ended with
// the session that owned it. Nobody finds it again.
func (t *Token) ended(o *object, err error) error {
	if r := o.key.Root(); r.Volatile && remedyFor(err) == findAgain {
		t.fleeting.forget(r.Label)
		return errEnded
	}
	return err
}

// errEnded is an object that is gone, and with it whatever was under way.
var errEnded = fault.New(fault.ChannelClosed, "the token lost what was agreed on with the card; open a new channel")
