package hsm

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
)

// object is a live key object inside the token.
type object struct {
	handle pkcs11.ObjectHandle
	key    *derive.Key
	owner  *owner // whose session the object dies with; nil for a root
	oracle oracle

	// Guarded by table.mu.
	refs int
	dead bool // out of the table; destroyed when refs falls to 0
	elem *list.Element
}

// table keeps the derived objects that are alive, at most max of them unless
// more are in use at once.
type table struct {
	mu      sync.Mutex
	max     int
	byID    map[[sha256.Size]byte]*object
	lru     *list.List            // of *object, most recently used first
	garbage []pkcs11.ObjectHandle // out of the table and unused, not yet destroyed
}

func (tb *table) init(max int) {
	tb.max = max
	tb.byID = map[[sha256.Size]byte]*object{}
	tb.lru = list.New()
}

// get returns the live object of k with one more reference, or nil.
func (tb *table) get(k *derive.Key) *object {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	o := tb.byID[k.ID()]
	if o != nil {
		o.refs++
		tb.lru.MoveToFront(o.elem)
	}
	return o
}

// put adds an object with one reference and makes room. If another goroutine was
// faster, its object is returned and o is out.
func (tb *table) put(o *object) *object {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if other := tb.byID[o.key.ID()]; other != nil {
		other.refs++
		o.dead = true
		tb.destroyLocked(o)
		return other
	}
	o.refs = 1
	o.elem = tb.lru.PushFront(o)
	tb.byID[o.key.ID()] = o
	for e := tb.lru.Back(); e != nil && len(tb.byID) > tb.max; {
		old := e.Value.(*object)
		e = e.Prev()
		if old.refs == 0 {
			tb.removeLocked(old)
		}
	}
	return o
}

// release drops one reference. Roots are not counted: they live as long as the
// library. nil is no object.
func (tb *table) release(o *object) {
	if o == nil || o.key.Parent() == nil {
		return
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	o.refs--
	if o.dead && o.refs == 0 {
		tb.destroyLocked(o)
	}
}

// remove takes the object of k out; it is destroyed as soon as nobody uses it.
func (tb *table) remove(k *derive.Key) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if o := tb.byID[k.ID()]; o != nil {
		tb.removeLocked(o)
	}
}

func (tb *table) removeLocked(o *object) {
	delete(tb.byID, o.key.ID())
	tb.lru.Remove(o.elem)
	o.dead = true
	if o.refs == 0 {
		tb.destroyLocked(o)
	}
}

func (tb *table) destroyLocked(o *object) {
	o.oracle.wipe()
	tb.garbage = append(tb.garbage, o.handle)
}

func (tb *table) littered() bool {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return len(tb.garbage) > 0
}

// discard has an object destroyed that was never in the table.
func (tb *table) discard(o *object) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.destroyLocked(o)
}

// takeGarbage returns a handle to destroy; the caller destroys it. One at a time: a call
// that hangs keeps no other object alive.
func (tb *table) takeGarbage() (pkcs11.ObjectHandle, bool) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	last := len(tb.garbage) - 1
	if last < 0 {
		return 0, false
	}
	h := tb.garbage[last]
	tb.garbage = tb.garbage[:last]
	return h, true
}

// forgetChain removes k and every key it follows from.
func (tb *table) forgetChain(k *derive.Key) {
	for ; k != nil && k.Parent() != nil; k = k.Parent() {
		tb.remove(k)
	}
}

// forgetOwned removes every object that died with an owner's session.
func (tb *table) forgetOwned(w *owner) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, o := range tb.byID {
		if o.owner == w {
			delete(tb.byID, o.key.ID())
			tb.lru.Remove(o.elem)
			o.oracle.wipe()
		}
	}
}

// forgetAll empties the table without touching the token.
func (tb *table) forgetAll() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, o := range tb.byID {
		o.oracle.wipe()
	}
	clear(tb.byID)
	tb.lru.Init()
	tb.garbage = nil
}

// live returns the number of objects.
func (tb *table) live() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return len(tb.byID)
}

// LiveObjects returns how many keys the token holds now that were derived, agreed on, or made
// for one agreement.
func (t *Token) LiveObjects() int { return t.objects.live() + t.fleeting.live() }

// Release implements derive.Token. It waits for no call in the token: the objects are
// destroyed behind its caller's back, at once where the token answers.
func (t *Token) Release(keys ...*derive.Key) {
	for _, k := range keys {
		switch {
		case k == nil:
		case k.Parent() != nil:
			t.objects.remove(k)
		case k.Root().Volatile:
			t.fleeting.release(k.Root().Label, &t.objects)
		}
	}
	t.tidy()
}

// tidy has one goroutine at a time, with one session, destroy garbage until none is left.
// What a token that does not answer leaves, a later operation destroys.
func (t *Token) tidy() {
	if !t.objects.littered() || !t.tidying.CompareAndSwap(false, true) {
		return
	}
	go func() {
		var err error
		for err == nil && t.objects.littered() {
			_, err = answer(context.Background(), t, nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (nothing, error) {
				t.sweep(s)
				return nothing{}, nil
			})
		}
		t.tidying.Store(false)
		if err == nil {
			t.tidy() // what came since littered looked
		}
	}()
}

// sweep destroys what left the table. A handle that the token does not know is
// gone already.
func (t *Token) sweep(s pkcs11.SessionHandle) {
	for h, more := t.objects.takeGarbage(); more; h, more = t.objects.takeGarbage() {
		_ = t.ctx.DestroyObject(s, h)
	}
}
