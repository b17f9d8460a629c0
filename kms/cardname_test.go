package kms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// onlyCard returns the row of the only card.
func (h *harness) onlyCard() (row store.Row) {
	h.t.Helper()
	h.must(h.db.View(h.ctx, func(tx store.Tx) error {
		rows, err := tx.List("card", h.issuer, "", 2)
		if err == nil && len(rows) != 1 {
			h.t.Fatalf("%d cards are there, want one", len(rows))
		}
		row = rows[0]
		return err
	}))
	return row
}

// TestDatabaseNamesNoCard: whoever has the database's files and the log finds no
// card in them, in any of the forms that it is written in anywhere.
func TestDatabaseNamesNoCard(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	h.image("cos", 1, random(300))
	kdd := [10]byte{0xC1, 0xA2, 0xB3, 0xD4, 0xE5, 0xF6, 0xA7, 0xB8, 0xC9, 0xDA}
	card := h.cardOf(kdd)
	id, err := h.authenticate(card)
	h.must(err)
	_, err = h.create(card, id, "cos")
	h.must(err)
	h.quarantine(card)
	_, err = h.execute(h.approved(kms.ProposeInput{Issuer: h.issuer, Operation: "card.release", Object: "issuers/" + h.issuer + "/cards/" + hex.EncodeToString(kdd[:])}))
	h.must(err)
	_, err = h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", []kms.ImportedCard{{KDD: kddOf(0xC1A2B3D4), KVN: kvn}})
	h.must(err)

	numbers, err := json.Marshal(kdd)
	h.must(err)
	imported := kddOf(0xC1A2B3D4)
	forms := [][]byte{
		kdd[:], []byte(hex.EncodeToString(kdd[:])), []byte(strings.ToUpper(hex.EncodeToString(kdd[:]))), numbers,
		[]byte(base64.StdEncoding.EncodeToString(kdd[:9])), imported[:], []byte(strings.ToUpper(hex.EncodeToString(imported[:]))),
	}
	files, err := filepath.Glob(h.path + "*")
	h.must(err)
	var read int
	for _, name := range files {
		content, err := os.ReadFile(name)
		h.must(err)
		read += len(content)
		for _, form := range forms {
			if bytes.Contains(content, form) {
				t.Errorf("%s holds the card as %q", filepath.Base(name), form)
			}
		}
	}
	if read == 0 {
		t.Fatalf("nothing was read of %v", files)
	}
	got, err := h.service.Card(h.ctx, h.req(), h.issuer, hex.EncodeToString(kdd[:]))
	if err != nil || !bytes.Equal(got.KDD, kdd[:]) {
		t.Errorf("the card: %X, %v", got.KDD, err)
	}
}

// TestSealOfAnotherCard: an identifier that was sealed for another row, or for
// none, opens as no card at all. The ledger would refuse such a row first; the seal
// stands by itself.
func TestSealOfAnotherCard(t *testing.T) {
	h := newHarness(t)
	_, err := h.authenticate(h.card(1))
	h.must(err)
	row := h.onlyCard()
	for _, sealed := range []string{"00000000000000000001", "", "0000", "zz000000000000000001"} {
		var body map[string]any
		h.must(json.Unmarshal(row.Body, &body))
		body["sealed"] = sealed
		row.Version++
		row.Body, err = json.Marshal(body)
		h.must(err)
		_, err := h.ledger.Do(h.ctx, func(rows store.Rows) (audit.Entry, error) {
			return audit.Entry{Actor: audit.ActorService, Operation: "test.touch", Decision: audit.Allowed, Outcome: audit.OutcomeOK}, rows.Put(row)
		})
		h.must(err)
		if _, _, err := h.service.Cards(h.ctx, h.as(kms.Auditor), h.issuer, "", 10); fault.CodeOf(err) != fault.Internal {
			t.Errorf("%q: %v", sealed, err)
		}
	}
}
