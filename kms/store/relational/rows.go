package relational

import (
	"errors"

	"cardkms/kms/store"
)

var errBlock = errors.New("relational: a block has a negative number or is too long")

// Get returns the row; see store.Rows.
func (t *Tx) Get(ref store.Ref) (store.Row, error) {
	rows, err := t.GetAll([]store.Ref{ref})
	if err != nil {
		return store.Row{}, err
	}
	if rows[0].Version == 0 {
		return store.Row{}, store.ErrNotFound
	}
	return rows[0], nil
}

// GetAll returns the rows; see store.Bulk.
func (t *Tx) GetAll(refs []store.Ref) ([]store.Row, error) {
	rows, statements := make([]store.Row, len(refs)), make([]Statement, len(refs))
	for i, ref := range refs {
		rows[i].Ref = ref
		statements[i] = Statement{SelectRow, []any{string(ref.Kind), ref.Issuer, ref.ID}}
	}
	_, err := t.run("reading rows", statements, func(i int, r Scanner) error {
		return r.Scan(&rows[i].Version, &rows[i].Body, &rows[i].MAC)
	})
	return rows, err
}

// Put creates or replaces the row; see store.Rows.
func (t *Tx) Put(row store.Row) error {
	if row.Version < 1 {
		return store.ErrVersion
	}
	changed, err := t.run("writing a row", []Statement{put(row)}, nil)
	if err == nil && changed[0] == 0 {
		err = store.ErrVersion
	}
	return err
}

// PutAll writes the rows; see store.Bulk.
func (t *Tx) PutAll(rows []store.Row) error { return t.writeAll(rows, put) }

// Import writes rows of another store; see store.Bulk.
func (t *Tx) Import(rows []store.Row) error { return t.writeAll(rows, insert) }

func (t *Tx) writeAll(rows []store.Row, write func(store.Row) Statement) error {
	statements := make([]Statement, len(rows))
	for i, row := range rows {
		if row.Version < 1 {
			return t.fail(store.ErrVersion)
		}
		statements[i] = write(row)
	}
	changed, err := t.run("writing rows", statements, nil)
	for _, n := range changed {
		if n == 0 {
			return t.fail(store.ErrVersion)
		}
	}
	return err
}

// fail ends a transaction of which only a part was written.
func (t *Tx) fail(err error) error {
	if t.broken == nil {
		t.broken = err
	}
	return err
}

func put(row store.Row) Statement {
	if row.Version == 1 {
		return insert(row)
	}
	return Statement{UpdateRow, values(row)}
}

func insert(row store.Row) Statement { return Statement{InsertRow, values(row)} }

func values(row store.Row) []any {
	return []any{string(row.Kind), row.Issuer, row.ID, row.Version, notNull(row.Body), notNull(row.MAC)}
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
func (t *Tx) List(kind store.Kind, issuer, after string, limit int) ([]store.Row, error) {
	if limit <= 0 {
		return nil, t.ready()
	}
	var page []store.Row
	err := t.read("listing rows", ListRows, func(r Scanner) error {
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
func (t *Tx) All(after store.Ref, limit int) ([]store.Row, error) {
	var page []store.Row
	err := t.read("reading all rows", AllRows, func(r Scanner) error {
		var row store.Row
		if err := r.Scan((*string)(&row.Kind), &row.Issuer, &row.ID, &row.Version, &row.Body, &row.MAC); err != nil {
			return err
		}
		page = append(page, row)
		return nil
	}, string(after.Kind), after.Issuer, after.ID, limit)
	return page, err
}

// PutBlock writes a block of an image; see store.Blocks.
func (t *Tx) PutBlock(image string, n int64, data []byte) error {
	if n < 0 || len(data) > store.BlockBytesMax {
		return errBlock
	}
	return t.write("writing a block", UpsertBlock, image, n, notNull(data))
}

// Block returns a block of an image; see store.Blocks.
func (t *Tx) Block(image string, n int64) ([]byte, error) {
	var data []byte
	found := false
	err := t.read("reading a block", SelectBlock, func(r Scanner) error {
		found = true
		return r.Scan(&data)
	}, image, n)
	if err == nil && !found {
		err = store.ErrNotFound
	}
	return data, err
}

// AllBlocks returns a page of blocks of every image; see store.Blocks.
func (t *Tx) AllBlocks(image string, n int64, limit int) ([]store.Block, error) {
	var page []store.Block
	err := t.read("reading all blocks", AllBlocks, func(r Scanner) error {
		var b store.Block
		if err := r.Scan(&b.Image, &b.N, &b.Data); err != nil {
			return err
		}
		page = append(page, b)
		return nil
	}, image, n, limit)
	return page, err
}
