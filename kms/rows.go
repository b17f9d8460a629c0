package kms

import (
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// Kinds of rows.
const (
	kindCard    store.Kind = "card"
	kindEMVCard store.Kind = "emv-card"
	kindOTACard store.Kind = "ota-card"
	// kindExplained counts explanations of a card's answers, see explain.go.
	kindExplained store.Kind = "card-explained"
	kindImage     store.Kind = "image"
	kindPackage   store.Kind = "package"
	kindKey       store.Kind = "key-version"
	kindAlarm     store.Kind = "key-alarm"

	kindOfficer  store.Kind = "officer"
	kindPolicy   store.Kind = "policy"
	kindProposal store.Kind = "proposal"
	// kindLease keeps two nodes from executing on one object, see execute.go.
	kindLease  store.Kind = "lease"
	kindSystem store.Kind = "system"
)

// get reads a row into v and returns its version, 0 if there is none.
func get(tx store.Rows, ref store.Ref, v any) (int64, error) {
	row, err := tx.Get(ref)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(row.Body, v); err != nil {
		return 0, fmt.Errorf("reading %s %s: %w", ref.Kind, ref.ID, err)
	}
	return row.Version, nil
}

// versionOf returns the version of a row, 0 if there is none.
func versionOf(tx store.Rows, ref store.Ref) (int64, error) {
	row, err := tx.Get(ref)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return row.Version, err
}

// need is get for a row that the caller named: none is fault.NotFound.
func need(tx store.Rows, ref store.Ref, v any) (int64, error) {
	n, err := get(tx, ref, v)
	if err == nil && n == 0 {
		err = fault.New(fault.NotFound, "no such "+string(ref.Kind))
	}
	return n, err
}

// put writes the successor of version n of a row.
func put(tx store.Rows, ref store.Ref, n int64, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %s %s: %w", ref.Kind, ref.ID, err)
	}
	return tx.Put(store.Row{Ref: ref, Version: n + 1, Body: body})
}

// page reads at most limit rows after a cursor. next is empty at the end.
func page[T any](tx store.Rows, kind store.Kind, issuer, after string, limit int) (items []T, next string, err error) {
	rows, err := tx.List(kind, issuer, after, limit+1)
	if err != nil {
		return nil, "", err
	}
	for i, r := range rows {
		if i == limit {
			return items, rows[limit-1].ID, nil
		}
		var v T
		if err := json.Unmarshal(r.Body, &v); err != nil {
			return nil, "", fmt.Errorf("reading %s %s: %w", kind, r.ID, err)
		}
		items = append(items, v)
	}
	return items, "", nil
}
