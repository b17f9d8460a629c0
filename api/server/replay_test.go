package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/kms/fault"
)

// TestRepeatedChanges repeats each kept change of a whole update under its key:
// the answer is the same, and it happens once.
func TestRepeatedChanges(t *testing.T) {
	w := newWorld(t)
	twice := func(a ask) string {
		t.Helper()
		a.as, a.key = uriUpdate, newKey()
		first := w.do(a)
		if first.Code/100 != 2 {
			t.Fatalf("%s: %d %s", a.path, first.Code, first.Body)
		}
		size := len(w.entries())
		second := w.do(a)
		if second.Code != first.Code || second.Body.String() != first.Body.String() || len(w.entries()) != size {
			t.Errorf("%s: first %d %s, then %d %s", a.path, first.Code, first.Body, second.Code, second.Body)
		}
		other := a
		switch a.body.(type) {
		case api.OpenChannel:
			other.body = api.OpenChannel{Key: "other"}
		case api.Authenticate:
			other.body = api.Authenticate{Response: api.Hex{0x90, 0x00}}
		default:
			return first.Body.String()
		}
		refused(t, w.do(other), api.IdempotencyMismatch)
		return first.Body.String()
	}
	im, content := w.image("cos-1-1", 200)
	twice(ask{method: http.MethodPost, path: acme + "/images", body: im})
	w.put("cos-1-1", content)
	twice(ask{method: http.MethodPost, path: acme + "/channels", body: api.OpenChannel{Key: "isd"}})
	ch, response := w.open()
	twice(ask{method: http.MethodPost, path: acme + "/channels/" + ch.ID + ":authenticate", body: api.Authenticate{Response: response}})
	live := w.authenticated()
	status := w.send(live, []byte{0x80, 0xCA, 0x00, 0xE5, 0x00})
	twice(ask{method: http.MethodPost, path: acme + "/packages", body: api.CreatePackage{Channel: live, Image: "cos-1-1", UpdateKey: "upd", KVN: 0x5A, Status: status}})
	twice(ask{method: http.MethodPost, path: acme + "/channels/" + live + ":wrap", body: api.Commands{Commands: []api.Hex{{0x80, 0xCA, 0, 0xE0, 0}}}})
	twice(ask{method: http.MethodDelete, path: acme + "/channels/" + live})
	if strings.Count(strings.Join(w.entries(), ""), "operation package.create") != 1 {
		t.Error("more than one package was made")
	}
}

// TestKeysOfClients checks that one client's key is not another's.
func TestKeysOfClients(t *testing.T) {
	w := newWorld(t)
	im, _ := w.image("cos-1-1", 200)
	a := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/images", body: im, key: "same"}
	want[api.Image](w, w.do(a))
	im.Name = "cos-1-2"
	a.as, a.body = uriOfficer, im
	if got := want[api.Image](w, w.do(a)); got.Name != "cos-1-2" {
		t.Errorf("the officer got %s", got.Name)
	}
}

// TestRefusalsAreNotKept checks that a change which did not happen may be tried
// again under its key.
func TestRefusalsAreNotKept(t *testing.T) {
	w := newWorld(t)
	im, _ := w.image("cos-1-1", 200)
	good := im.Signature
	im.Signature = make(api.Hex, 64)
	a := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/images", body: im, key: "again"}
	refused(t, w.do(a), api.ImageUnverified)
	im.Signature = good
	a.body = im
	want[api.Image](w, w.do(a))
}

func TestReplays(t *testing.T) {
	var s replays
	s.init(2, time.Minute)
	now := time.Unix(0, 0)
	key := func(n int) replayKey { return replayKey{"me", "op", fmt.Sprint(n)} }
	begin := func(n int, digest byte) (replaySlot, fault.Code) {
		slot, err := s.begin(key(n), [32]byte{digest}, now)
		return slot, fault.CodeOf(err)
	}
	one, _ := begin(1, 1)
	if _, c := begin(1, 1); c != fault.Conflict {
		t.Errorf("under way: %s", c)
	}
	if _, c := begin(1, 2); c != fault.IdempotencyMismatch {
		t.Errorf("another request: %s", c)
	}
	two, _ := begin(2, 1)
	if _, c := begin(3, 1); c != fault.RateLimited {
		t.Errorf("a third under way: %s", c)
	}
	s.end(one, "answer", now)
	if got, c := begin(1, 1); c != fault.OK || !got.done || got.answer != "answer" {
		t.Errorf("done: %+v %s", got, c)
	}
	s.end(two, nil, now)
	if got, c := begin(2, 9); c != fault.OK || got.done {
		t.Errorf("freed: %+v %s", got, c)
	}
	if got, c := begin(3, 1); c != fault.OK || got.done {
		t.Errorf("the oldest answer makes room: %+v %s", got, c)
	}
	if got, c := begin(1, 1); c != fault.RateLimited || got.done {
		t.Errorf("it was not forgotten: %+v %s", got, c)
	}
	now = now.Add(time.Hour)
	if s.by["me"].order.Len() != 2 {
		t.Errorf("%d slots", s.by["me"].order.Len())
	}
}

// TestReplaysExpire checks that an answer is kept no longer than said.
func TestReplaysExpire(t *testing.T) {
	var s replays
	s.init(10, time.Minute)
	k, now := replayKey{"me", "op", "k"}, time.Unix(0, 0)
	slot, err := s.begin(k, [32]byte{}, now)
	must(t, err)
	s.end(slot, "answer", now)
	if got, _ := s.begin(k, [32]byte{}, now.Add(time.Minute-1)); !got.done {
		t.Error("forgotten too early")
	}
	if got, _ := s.begin(k, [32]byte{}, now.Add(time.Minute)); got.done {
		t.Error("kept too long")
	}
}

// TestOneOfMany sends the same change from many connections at once: it happens
// once, and who comes too early is told so.
func TestOneOfMany(t *testing.T) {
	w := newWorld(t)
	a := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: api.OpenChannel{Key: "isd"}}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if rec := w.do(a); rec.Code != http.StatusCreated && rec.Code != http.StatusConflict {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	wg.Wait()
	if n := w.service.ChannelsOpen(); n != 1 {
		t.Errorf("%d channels are open", n)
	}
}

// TestPanicFreesKey checks that a handler that panics leaves no key under way.
func TestPanicFreesKey(t *testing.T) {
	w := newWorld(t)
	rt := route{id: "boom", kept: true}
	ctx := context.WithValue(t.Context(), requestKey{}, &request{id: "r"})
	boom := func() {
		defer func() { _ = recover() }()
		_, _ = call(ctx, w.server, rt, &openChannelInput{}, panics)
	}
	boom()
	if n := w.server.replays.by[""].order.Len(); n != 0 {
		t.Errorf("%d slots are left", n)
	}
}
