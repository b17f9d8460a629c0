package storetest

import (
	"context"
	"fmt"
	"testing"

	"cardkms/kms/store"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func testPut(t *testing.T, s *suite) {
	first, second := card("7", 1, "first"), card("7", 2, "second")
	first.MAC, second.MAC = []byte("one"), []byte("two")
	s.update(func(tx store.Tx) error {
		wantNone(t, tx, first.Ref)
		wantError(t, tx.Put(second), store.ErrVersion) // replaces nothing
		return tx.Put(first)
	})
	s.update(func(tx store.Tx) error {
		wantRow(t, tx, first)
		for _, version := range []int64{1, 3, 0, -1} {
			wantError(t, tx.Put(card("7", version, "wrong")), store.ErrVersion)
		}
		wantRow(t, tx, first)
		if err := tx.Put(second); err != nil {
			return err
		}
		wantRow(t, tx, second)
		return nil
	})
	s.view(func(tx store.Tx) error { wantRow(t, tx, second); return nil })
}

// testBulk also writes two versions of one row at once, as a group of changes does.
func testBulk(t *testing.T, s *suite) {
	s.update(put(card("old", 1, "")))
	s.update(func(tx store.Tx) error {
		return tx.PutAll([]store.Row{card("7", 1, "a"), card("old", 2, "b"), card("7", 2, "c")})
	})
	s.view(func(tx store.Tx) error {
		want := []store.Row{card("old", 2, "b"), card("none", 0, ""), card("7", 2, "c"), card("old", 2, "b")}
		var names []store.Ref
		for _, r := range want {
			names = append(names, r.Ref)
		}
		got, err := tx.GetAll(names)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("GetAll: %v %s", err, diff)
		}
		if got, err := tx.GetAll(nil); err != nil || len(got) != 0 {
			t.Errorf("no rows: %v, %v", got, err)
		}
		return nil
	})
	for _, wrong := range []int64{0, 1, 2, 4} {
		err := s.Update(context.Background(), func(tx store.Tx) error {
			err := tx.PutAll([]store.Row{card("new", 1, ""), card("7", wrong, "")})
			wantError(t, err, store.ErrVersion)
			return nil // the transaction fails although its caller says nothing
		})
		wantError(t, err, store.ErrVersion)
	}
	s.view(func(tx store.Tx) error {
		wantNone(t, tx, card("new", 0, "").Ref)
		wantRow(t, tx, card("7", 2, "c"))
		return nil
	})
}

func testList(t *testing.T, s *suite) {
	// Byte order, not that of a language: upper case before lower, é after z.
	ids := []string{"-", "1", "10", "2", "A", "Z", "a", "b", "z", "é"}
	s.update(func(tx store.Tx) error {
		for i := range ids {
			if err := tx.Put(card(ids[len(ids)-1-i], 1, ids[len(ids)-1-i])); err != nil {
				return err
			}
		}
		return nil
	})
	s.view(func(tx store.Tx) error {
		for limit := 1; limit <= len(ids)+1; limit++ {
			if diff := cmp.Diff(ids, listAll(t, tx, limit)); diff != "" {
				t.Errorf("in pages of %d: %s", limit, diff)
			}
		}
		if page, err := tx.List("card", "acme", "", 0); err != nil || len(page) != 0 {
			t.Errorf("a page of 0 rows has %d, %v", len(page), err)
		}
		return nil
	})
}

func listAll(t *testing.T, tx store.Rows, limit int) []string {
	t.Helper()
	var got []string
	after := ""
	for {
		page, err := tx.List("card", "acme", after, limit)
		if err != nil || len(page) > limit {
			t.Fatalf("List after %q: %d rows, %v", after, len(page), err)
		}
		if len(page) == 0 {
			return got
		}
		for _, r := range page {
			if diff := cmp.Diff(card(r.ID, 1, r.ID), r, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			got = append(got, r.ID)
		}
		after = page[len(page)-1].ID
	}
}

func testSeparation(t *testing.T, s *suite) {
	rows := []store.Row{
		row("card", "acme", "7", 1, "a"), row("card", "beta", "7", 1, "b"),
		row("card", "", "7", 1, "c"), row("key", "acme", "7", 1, "d"),
		row("car", "dacme", "7", 1, "e"), // no concatenation of names
	}
	s.update(put(rows...))
	s.update(put(row("card", "beta", "7", 2, "B")))
	rows[1] = row("card", "beta", "7", 2, "B")
	s.view(func(tx store.Tx) error {
		for _, want := range rows {
			wantRow(t, tx, want)
			page, err := tx.List(want.Kind, want.Issuer, "", 10)
			if diff := cmp.Diff([]store.Row{want}, page, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Errorf("List(%v): %v %s", want.Ref, err, diff)
			}
		}
		wantNone(t, tx, store.Ref{Kind: "key", Issuer: "beta", ID: "7"})
		return nil
	})
}

// testAll reads every row in pages of every size, in the order of kind, issuer
// and id.
func testAll(t *testing.T, s *suite) {
	want := []store.Row{
		row("a", "", "1", 1, ""), row("a", "x", "1", 1, "body"), row("a", "x", "2", 1, ""),
		row("a", "xx", "0", 1, ""), row("b", "", "0", 1, ""), row("card", "acme", "7", 1, ""),
	}
	for i := range want {
		want[i].MAC = []byte{byte(i), 0xFF}
	}
	s.update(put(want...))
	s.view(func(tx store.Tx) error {
		for limit := 1; limit <= len(want)+1; limit++ {
			var got []store.Row
			for after := (store.Ref{}); ; {
				page, err := tx.All(after, limit)
				if err != nil || len(page) > limit {
					t.Fatalf("All after %v: %d rows, %v", after, len(page), err)
				}
				if len(page) == 0 {
					break
				}
				got, after = append(got, page...), page[len(page)-1].Ref
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("in pages of %d: %s", limit, diff)
			}
		}
		return nil
	})
}

func testBodies(t *testing.T, s *suite) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	s.update(func(tx store.Tx) error {
		for i, body := range [][]byte{nil, {}, {0}, every, make([]byte, 1<<20)} {
			r := card(fmt.Sprint(i), 1, string(body))
			r.Body = body
			if err := tx.Put(r); err != nil {
				return err
			}
			got, err := tx.Get(r.Ref)
			if err != nil || string(got.Body) != string(body) {
				t.Errorf("body %d: %d bytes, %v", i, len(got.Body), err)
			}
		}
		return nil
	})
}

func testBlocks(t *testing.T, s *suite) {
	full := make([]byte, store.BlockBytesMax)
	full[0], full[len(full)-1] = 1, 2
	s.update(func(tx store.Tx) error {
		for _, err := range []error{
			tx.PutBlock("a", 0, full), tx.PutBlock("a", 1, []byte("old")), tx.PutBlock("b", 1, []byte("b1")),
			tx.PutBlock("a", 1, []byte("new")), tx.PutBlock("a", 2, nil),
		} {
			if err != nil {
				return err
			}
		}
		if tx.PutBlock("a", 3, make([]byte, store.BlockBytesMax+1)) == nil || tx.PutBlock("a", -1, nil) == nil {
			t.Error("a block that is too long or has a negative number was written")
		}
		return nil
	})
	s.view(func(tx store.Tx) error {
		for n, want := range []string{string(full), "new", ""} {
			if got, err := tx.Block("a", int64(n)); err != nil || string(got) != want {
				t.Errorf("block %d: %d bytes, %v", n, len(got), err)
			}
		}
		for _, missing := range []string{"a", "b", "c"} {
			_, err := tx.Block(missing, 3)
			wantError(t, err, store.ErrNotFound)
		}
		return nil
	})
}
