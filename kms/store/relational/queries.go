package relational

// Query names a statement.
type Query int

// The statements of a transaction.
const (
	InsertRow Query = iota
	UpdateRow
	SelectRow
	ListRows
	AllRows
	InsertLeaf
	SelectLeaves
	SelectHashes
	SelectSize
	EmptyLeaves
	UpsertBlock
	SelectBlock
	AllBlocks
	// Queries is the number of statements.
	Queries
)

// Text returns the SQL of a statement, which both engines run unchanged.
func (q Query) Text() string { return texts[q] }

var texts = [Queries]string{
	InsertRow: `INSERT INTO state_rows (kind, issuer, id, version, body, mac) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
	UpdateRow: `UPDATE state_rows SET version = $4, body = $5, mac = $6 WHERE kind = $1 AND issuer = $2 AND id = $3 AND version = $4 - 1`,
	SelectRow: `SELECT version, body, mac FROM state_rows WHERE kind = $1 AND issuer = $2 AND id = $3`,
	ListRows: `SELECT id, version, body, mac FROM state_rows WHERE kind = $1 AND issuer = $2 AND id > $3
		ORDER BY id LIMIT $4`,
	AllRows: `SELECT kind, issuer, id, version, body, mac FROM state_rows WHERE (kind, issuer, id) > ($1, $2, $3)
		ORDER BY kind, issuer, id LIMIT $4`,

	InsertLeaf:   `INSERT INTO log_leaves (seq, leaf, hashes, touched) VALUES ($1, $2, $3, $4)`,
	SelectLeaves: `SELECT seq, leaf, hashes, touched FROM log_leaves WHERE seq >= $1 ORDER BY seq LIMIT $2`,
	SelectHashes: `SELECT hashes FROM log_leaves WHERE seq = $1`,
	SelectSize:   `SELECT COALESCE(MAX(seq) + 1, 0) FROM log_leaves`,
	EmptyLeaves:  `UPDATE log_leaves SET leaf = $1 WHERE seq >= $2 AND seq < $3`,

	UpsertBlock: `INSERT INTO image_blocks (image, n, data) VALUES ($1, $2, $3)
		ON CONFLICT (image, n) DO UPDATE SET data = excluded.data`,
	SelectBlock: `SELECT data FROM image_blocks WHERE image = $1 AND n = $2`,
	AllBlocks:   `SELECT image, n, data FROM image_blocks WHERE (image, n) > ($1, $2) ORDER BY image, n LIMIT $3`,
}
