package sqlite

import (
	"database/sql"

	"cardkms/kms/store"
)

// Get returns the row; see store.Rows.
func (t *tx) Get(ref store.Ref) (store.Row, error) {
	row := store.Row{Ref: ref}
	err := t.read("reading a row", selectRow, func(r *sql.Rows) error {
		return r.Scan(&row.Version, &row.Body, &row.MAC)
	}, string(ref.Kind), ref.Issuer, ref.ID)
	if err != nil {
		return store.Row{}, err
	}
	if row.Version == 0 {
		return store.Row{}, store.ErrNotFound
	}
	return row, nil
}

// Put creates or replaces the row; see store.Rows.
func (t *tx) Put(row store.Row) error {
	if row.Version < 1 {
		return store.ErrVersion
	}
	body, mac := notNull(row.Body), notNull(row.MAC)
	var changed int64
	var err error
	if row.Version == 1 {
		changed, err = t.write("creating a row", insertRow, string(row.Kind), row.Issuer, row.ID, body, mac)
	} else {
		changed, err = t.write("replacing a row", updateRow, string(row.Kind), row.Issuer, row.ID, row.Version, body, mac)
	}
	if err != nil {
		return err
	}
	if changed == 0 {
		return store.ErrVersion
	}
	return nil
}

// notNull returns b so that the driver writes an empty value, not NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// List returns a page of rows; see store.Rows. The page starts after an ID, not
// at an offset, so that a page costs the same wherever it is.
func (t *tx) List(kind store.Kind, issuer, after string, limit int) ([]store.Row, error) {
	if limit <= 0 {
		return nil, t.ready()
	}
	var page []store.Row
	err := t.read("listing rows", listRows, func(r *sql.Rows) error {
		row := store.Row{Ref: store.Ref{Kind: kind, Issuer: issuer}}
		if err := r.Scan(&row.ID, &row.Version, &row.Body, &row.MAC); err != nil {
			return err
		}
		page = append(page, row)
		return nil
	}, string(kind), issuer, after, limit)
	return page, err
}

// All returns a page of rows of every kind; see store.Everything.
func (t *tx) All(after store.Ref, limit int) ([]store.Row, error) {
	var page []store.Row
	err := t.read("reading all rows", allRows, func(r *sql.Rows) error {
		var row store.Row
		if err := r.Scan(&row.Kind, &row.Issuer, &row.ID, &row.Version, &row.Body, &row.MAC); err != nil {
			return err
		}
		page = append(page, row)
		return nil
	}, string(after.Kind), after.Issuer, after.ID, limit)
	return page, err
}

// PutBlock writes a block of an image; see store.Blocks.
func (t *tx) PutBlock(image string, n int64, data []byte) error {
	if n < 0 || len(data) > store.BlockBytesMax {
		return errBlock
	}
	_, err := t.write("writing a block", upsertBlock, image, n, notNull(data))
	return err
}

// Block returns a block of an image; see store.Blocks.
func (t *tx) Block(image string, n int64) ([]byte, error) {
	var data []byte
	found := false
	err := t.read("reading a block", selectBlock, func(r *sql.Rows) error {
		found = true
		return r.Scan(&data)
	}, image, n)
	if err == nil && !found {
		err = store.ErrNotFound
	}
	return data, err
}
