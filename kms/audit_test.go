package kms_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/report"
	"cardkms/kms/store"
)

// auditor is a request by somebody who may read the whole log.
func (h *harness) auditor() kms.Request {
	r := h.as(kms.Auditor)
	r.Caller.Issuer = ""
	return r
}

// lastEntry returns the newest entry.
func (h *harness) lastEntry() audit.Entry {
	h.t.Helper()
	e, err := h.ledger.Entries(h.ctx, h.ledger.Size()-1, 1)
	h.must(err)
	return e[0]
}

// TestReadingTheLogIsLogged: one entry for each reader and minute, whatever the
// number of requests.
func TestReadingTheLogIsLogged(t *testing.T) {
	h := newHarness(t)
	size := h.ledger.Size()
	for range 5 {
		_, err := h.service.AuditEntries(h.ctx, h.auditor(), 1, 2)
		h.must(err)
	}
	_, err := h.service.AuditProof(h.ctx, h.auditor(), 0, size)
	h.must(err)
	h.service.Sweep()
	if h.ledger.Size() != size {
		t.Error("readings are logged before their minute is over")
	}
	h.advance(time.Minute)
	h.service.Sweep()
	e := h.lastEntry()
	if h.ledger.Size() != size+1 || e.Operation != "audit.read" || e.Actor != h.auditor().Caller.ID ||
		e.Detail["requests"] != "6" || e.Detail["entries"] != "11" || e.Detail["from"] != "0" || e.Detail["to"] != "3" {
		t.Errorf("%d entries, the newest %+v", h.ledger.Size()-size, e)
	}
	_, err = h.service.AuditEntries(h.ctx, h.auditor(), 0, 1)
	h.must(err)
	h.service.Close() // nothing that was read is forgotten
	if h.lastEntry().Detail["requests"] != "1" {
		t.Errorf("at the end: %+v", h.lastEntry())
	}
}

// report makes a report, checks its signature and returns its JSON.
func (h *harness) report(name report.Name, from, to time.Time) (report.Document, error) {
	h.t.Helper()
	msg, err := h.service.Report(h.ctx, h.auditor(), kms.ReportInput{Name: name, From: from, To: to})
	if err != nil {
		return nil, err
	}
	v, err := audit.NewVerifier(h.vkey)
	h.must(err)
	n, err := note.Open(msg, note.VerifierList(v))
	h.must(err)
	if _, err := audit.OpenCheckpoint(msg, "test/audit", v); err == nil {
		h.t.Error("a report passes as a checkpoint")
	}
	d, err := report.Parse([]byte(n.Text))
	h.must(err)
	again, err := json.MarshalIndent(d, "", "  ")
	h.must(err)
	if string(again)+"\n" != n.Text {
		h.t.Errorf("%s is read as another report:\n%s", name, again)
	}
	return d, nil
}

func TestReports(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	_, err := h.authenticate(card)
	h.must(err)
	id, answer, err := h.connect(card)
	h.must(err)
	answer[25] ^= 1
	_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
	h.want("a wrong cryptogram", err, fault.ProofFailed)
	now := h.clock()
	from, to := now.Add(-time.Hour), now.Add(time.Hour)

	d, err := h.report(report.Inventory, from, to)
	h.must(err)
	inv := d.(*report.InventoryReport)
	if len(inv.Profiles) != 1 || inv.Profiles[0].Name != "issuers/"+h.issuer+"/profiles/default" || inv.Profiles[0].Version != 1 || len(inv.Profiles[0].SHA256) != 64 {
		t.Errorf("%+v", inv.Profiles)
	}
	if len(inv.Keys) != 2 || inv.Keys[0].Held != report.Present || inv.Keys[0].Created.IsZero() || len(inv.Ghosts) == 0 {
		t.Errorf("inventory: %s", inv.Text())
	}
	h.must(h.token.Destroy(h.ctx, cardkey.Root(inv.Keys[0].Version, key.Master).Label))
	d, err = h.report(report.Inventory, from, to)
	h.must(err)
	if d.(*report.InventoryReport).Keys[0].Held != report.Missing {
		t.Errorf("a key that is gone: %s", d.Text())
	}

	h.advance(340 * 24 * time.Hour)
	d, err = h.report(report.Cryptoperiods, from, to)
	h.must(err)
	if p := d.(*report.CryptoperiodsReport).Periods; len(p) != 2 || p[0].Alarm != "30" || p[0].DaysLeft != 25 {
		t.Errorf("cryptoperiods: %s", d.Text())
	}

	d, err = h.report(report.Access, from, to)
	h.must(err)
	uses := d.(*report.AccessReport).Uses
	var server report.Use
	for _, u := range uses {
		if u.Role == "update-server" {
			server = u
		}
	}
	if server.Operations["channel.authenticate"] != 2 || server.Refused != 1 || server.Known {
		t.Errorf("access: %+v", uses)
	}
	d, err = h.report(report.Algorithms, from, to)
	h.must(err)
	if s := d.(*report.AlgorithmsReport).ByStatus; s["approved"] == 0 || s["legacy"] != 0 {
		t.Errorf("algorithms: %v", s)
	}
	d, err = h.report(report.Daily, from, to)
	h.must(err)
	daily := d.(*report.DailyReport)
	if daily.Done["channel.authenticate"] != 1 || daily.Refused["channel.authenticate proof_failed"] != 1 || daily.First != 0 {
		t.Errorf("daily: %s", daily.Text())
	}
	if d, err = h.report(report.Daily, now.Add(-48*time.Hour), now.Add(-47*time.Hour)); err != nil || d.(*report.DailyReport).First != -1 {
		t.Errorf("a day without entries: %v, %v", d, err)
	}
	_, err = h.report(report.Daily, from, from.Add(40*24*time.Hour))
	h.want("a long period", err, fault.InvalidInput)
	_, err = h.report("unheard-of", from, to)
	h.want("an unknown report", err, fault.NotFound)
}

// TestCardOfAnotherDatabase: a card that the database forgot, or remembers as it
// was, is refused, and the log tells of it by pseudonym.
func TestCardOfAnotherDatabase(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	_, err := h.authenticate(card)
	h.must(err)
	old := h.onlyCard()
	_, err = h.authenticate(card)
	h.must(err)
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error {
		old.Version += 2 // what was put back is newer for the store, and older for the ledger
		return tx.Put(old)
	}))
	if _, err := h.authenticate(card); fault.CodeOf(err) != fault.ObjectTampered {
		t.Errorf("a card's counter that was put back: %v", err)
	}
	h.service.Suspect(h.ctx, h.ledger.Violations()[0])
	e := h.lastEntry()
	if e.Operation != "database.violation" || e.Card == "" || e.Object != "card/"+old.ID || e.Outcome != "object_tampered" {
		t.Errorf("the entry: %+v", e)
	}
	other := h.card(2) // the others are served
	_, err = h.authenticate(other)
	h.must(err)
}

func TestCheckImages(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(200_000))
	size := h.ledger.Size()
	h.must(h.service.CheckImages(h.ctx))
	if h.ledger.Size() != size {
		t.Error("a clean image is flagged")
	}
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error { return tx.PutBlock(h.issuer+"/cos", 2, []byte("other")) }))
	h.must(h.service.CheckImages(h.ctx))
	if e := h.lastEntry(); e.Operation != "database.violation" || e.Object != "image/cos" {
		t.Errorf("the entry: %+v", e)
	}
}

// TestControlIsAnchored: what decides about keys and images is outside the
// database before anybody learns that it happened; what cards do is not.
func TestControlIsAnchored(t *testing.T) {
	kept := &keeper{}
	h := newHarness(t, func(h *harness) { h.anchors = []ledger.Anchor{{Name: "test", Keeper: kept, Every: time.Hour}} })
	if !strings.Contains(string(kept.note), fmt.Sprintf("\n%d\n", h.ledger.Size())) {
		t.Errorf("loading keys: %d entries are anchored as\n%s", h.ledger.Size(), kept.note)
	}
	before := kept.times
	_, err := h.authenticate(h.card(1))
	h.must(err)
	if kept.times != before {
		t.Error("an authentication waits for the anchor")
	}
	h.image("cos", 1, random(100))
	if kept.times == before {
		t.Error("an image is not anchored")
	}
	kept.fails = errors.New("out of reach")
	m := meta(2, []byte("x"))
	_, err = h.service.RegisterImage(h.ctx, h.req(), kms.RegisterImageInput{
		Issuer: h.issuer, Name: "cos2", Meta: m, ReleaseKey: "release", Signature: h.sign(m),
	})
	h.want("an anchor that is away", err, fault.AuditUnavailable)
	kept.fails = nil
}

type keeper struct {
	note  []byte
	times int
	fails error
}

func (k *keeper) Newest(context.Context) ([][]byte, error) {
	if k.note == nil {
		return nil, k.fails
	}
	return [][]byte{k.note}, k.fails
}

func (k *keeper) Keep(_ context.Context, note []byte) error {
	k.note, k.times = bytes.Clone(note), k.times+1
	return k.fails
}

// TestPseudonymsAreDestroyed: after that no card can be found in the log, and the
// log verifies as before.
func TestPseudonymsAreDestroyed(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	_, err := h.authenticate(card)
	h.must(err)
	old := h.pseudo
	destroy := func(label string) error { return h.service.DestroyPseudonyms(h.ctx, "test", label, h.token.Destroy) }
	h.want("the key in use", destroy(old.Label), fault.Conflict)
	h.pseudo, err = h.token.Generate(h.ctx, h.issuer+"-pseudonym-2", key.AES256, derive.SessionMAC)
	h.must(err)
	h.restart()
	_, err = h.authenticate(card)
	h.must(err)
	cards := map[string]bool{}
	entries, err := h.ledger.Entries(h.ctx, 0, 1000)
	h.must(err)
	for _, e := range entries {
		if e.Operation == "channel.authenticate" {
			cards[e.Card] = true
		}
	}
	if len(cards) != 2 {
		t.Errorf("one card has %d pseudonyms under two keys", len(cards))
	}
	for _, other := range []string{h.versionName(1) + "#master", "cardkms-state", "kek"} {
		h.want(other, destroy(other), fault.Forbidden)
	}
	h.must(destroy(old.Label))
	if _, err := h.token.MAC(h.ctx, derive.FromRoot(old), []byte("x")); err == nil {
		t.Error("the key still makes pseudonyms")
	}
	if e := h.lastEntry(); e.Operation != "pseudonym.destroy" || e.Intent == nil || e.Outcome != "ok" {
		t.Errorf("the entry: %+v", e)
	}
	h.want("a key that is gone", destroy(old.Label), fault.KeyState)
	if found, err := h.ledger.Scrub(h.ctx); err != nil || len(found) > 0 {
		t.Errorf("the log after that: %v, %v", found, err)
	}
}

// TestPrune removes what is old enough and sealed, and nothing else.
func TestPrune(t *testing.T) {
	h := newHarness(t)
	for range 600 {
		_, err := h.ledger.Do(h.ctx, func(store.Rows) (audit.Entry, error) {
			return audit.Entry{Actor: audit.ActorService, Operation: "test.entry", Decision: audit.Allowed, Outcome: audit.OutcomeOK}, nil
		})
		h.must(err)
	}
	sealed, err := h.ledger.Signed(h.ctx)
	h.must(err)
	_, err = h.service.Prune(h.ctx, "test", sealed)
	h.want("entries of today", err, fault.Conflict)
	h.advance(kms.HotFor + 2*time.Hour)
	foreign := sealed
	foreign.Root[0] ^= 1
	_, err = h.service.Prune(h.ctx, "test", foreign)
	h.want("the segment of another log", err, fault.Conflict)
	first, err := h.service.Prune(h.ctx, "test", sealed)
	if err != nil || first != 512 {
		t.Fatalf("Prune = %d, %v", first, err)
	}
	_, err = h.service.AuditEntries(h.ctx, h.auditor(), 100, 1)
	h.want("an old entry", err, fault.NotFound)
	got, err := h.service.AuditEntries(h.ctx, h.auditor(), 512, 10)
	if err != nil || len(got) != 10 {
		t.Errorf("%d entries, %v", len(got), err)
	}
	h.restart()
	if h.ledger.First() != 512 {
		t.Errorf("after a restart the first is %d", h.ledger.First())
	}
}
