package server

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cardkms/api"

	"github.com/go-json-experiment/json"
)

// sameBut reports whether two answers are the same but for the request's id.
func sameBut(t testing.TB, a, b *httptest.ResponseRecorder) bool {
	t.Helper()
	strip := func(rec *httptest.ResponseRecorder) (string, string) {
		var p api.Problem
		must(t, json.Unmarshal(rec.Body.Bytes(), &p))
		h := rec.Header().Clone()
		h.Del(api.HeaderRequestID)
		text, err := json.Marshal(h, json.Deterministic(true))
		must(t, err)
		return strings.ReplaceAll(rec.Body.String(), p.RequestID, "ID"), string(text)
	}
	bodyA, headA := strip(a)
	bodyB, headB := strip(b)
	return a.Code == b.Code && bodyA == bodyB && headA == headB
}

func (w *world) tryAuthenticate(channel string, response []byte) *httptest.ResponseRecorder {
	return w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels/" + channel + ":authenticate", key: newKey(), body: api.Authenticate{Response: response}})
}

// TestOpaqueProofs checks that a wrong cryptogram, an unknown Key Version Number
// and another card's answer look the same.
func TestOpaqueProofs(t *testing.T) {
	w := newWorld(t)
	change := map[string]func([]byte){
		"cryptogram": func(r []byte) { r[21] ^= 0x01 },
		"challenge":  func(r []byte) { r[13] ^= 0x01 },
		"KVN":        func(r []byte) { r[10] = 0x44 },
	}
	var first *httptest.ResponseRecorder
	for name, f := range change {
		ch := post[api.OpenedChannel](w, acme+"/channels", api.OpenChannel{Key: "isd"})
		response := w.transmit(ch.InitializeUpdate)
		response[0] = byte(len(name)) // three cards, so that none is put into quarantine
		f(response)
		rec := w.tryAuthenticate(ch.ID, response)
		refused(t, rec, api.ProofFailed)
		if first == nil {
			first = rec
		}
		if !sameBut(t, first, rec) {
			t.Errorf("%s: %s, not %s", name, rec.Body, first.Body)
		}
	}
}

// TestEveryBit flips each bit of the card cryptogram.
func TestEveryBit(t *testing.T) {
	w := newWorld(t)
	for bit := range 64 {
		ch, response := w.open()
		response[0] = byte(bit) // a card of its own each time
		response[21+bit/8] ^= 1 << (bit % 8)
		refused(t, w.tryAuthenticate(ch.ID, response), api.ProofFailed)
	}
	if n := w.service.ChannelsOpen(); n != 0 {
		t.Errorf("%d channels are open", n)
	}
}

// TestReplayedAnswer checks that an answer serves one challenge once.
func TestReplayedAnswer(t *testing.T) {
	w := newWorld(t)
	ch, response := w.open()
	post[api.AuthenticatedChannel](w, acme+"/channels/"+ch.ID+":authenticate", api.Authenticate{Response: response})
	refused(t, w.tryAuthenticate(ch.ID, response), api.ChannelState)
	second := post[api.OpenedChannel](w, acme+"/channels", api.OpenChannel{Key: "isd"})
	refused(t, w.tryAuthenticate(second.ID, response), api.ProofFailed)
}

// TestAnswerLengths checks truncated and overlong answers of the card.
func TestAnswerLengths(t *testing.T) {
	w := newWorld(t)
	for _, f := range []func([]byte) []byte{
		func(r []byte) []byte { return r[len(r)-2:] },
		func(r []byte) []byte { return append(bytes.Clone(r[:9]), 0x90, 0x00) },
		func(r []byte) []byte { return r[1:] },
		func(r []byte) []byte { return append([]byte{0}, r...) },
	} {
		ch, response := w.open()
		refused(t, w.tryAuthenticate(ch.ID, f(response)), api.InvalidInput)
	}
}

// TestQuarantine puts a card into quarantine, and shows it there.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		ch, response := w.open()
		response[21] ^= 0x80
		refused(t, w.tryAuthenticate(ch.ID, response), api.ProofFailed)
	}
	ch, response := w.open()
	refused(t, w.tryAuthenticate(ch.ID, response), api.CardQuarantined)
	path := acme + "/cards/00010203040506070809"
	card := want[api.Card](w, w.do(ask{as: uriAuditor, method: http.MethodGet, path: path}))
	if !card.Quarantined || card.Failures != 3 || card.SequenceCounter != nil || !card.LastProved.IsZero() {
		t.Errorf("%+v", card)
	}
	log := strings.Join(w.entries(), "")
	if strings.Count(log, "outcome proof_failed") != 3 || strings.Count(log, "outcome card_quarantined") != 1 {
		t.Error("the failed proofs are not in the log")
	}
}

// TestWrongMAC checks that a response that does not verify ends the channel.
func TestWrongMAC(t *testing.T) {
	w := newWorld(t)
	ch := w.authenticated()
	r := w.send(ch, []byte{0x80, 0xCA, 0x00, 0xE0, 0x00})
	r[0] ^= 1
	unwrap := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels/" + ch + ":unwrap", key: newKey(), body: api.Responses{Responses: []api.Hex{r}}}
	refused(t, w.do(unwrap), api.ProofFailed)
	unwrap.key = newKey()
	refused(t, w.do(unwrap), api.ChannelClosed)
}
