package sqlite

// query names a statement; a session prepares each at most once.
type query int

const (
	beginWrite query = iota
	beginRead
	commit
	rollback
	insertRow
	updateRow
	selectRow
	listRows
	allRows
	insertLeaf
	selectLeaves
	selectHashes
	selectSize
	emptyLeaves
	upsertBlock
	selectBlock
	queryCount
)

// queries are in SQL that PostgreSQL runs unchanged, but for beginWrite, whose
// place a lock on the head takes there.
var queries = [queryCount]string{
	beginWrite: `BEGIN IMMEDIATE`,
	beginRead:  `BEGIN`,
	commit:     `COMMIT`,
	rollback:   `ROLLBACK`,

	insertRow: `INSERT INTO state_rows (kind, issuer, id, version, body, mac) VALUES ($1, $2, $3, 1, $4, $5) ON CONFLICT DO NOTHING`,
	updateRow: `UPDATE state_rows SET version = $4, body = $5, mac = $6 WHERE kind = $1 AND issuer = $2 AND id = $3 AND version = $4 - 1`,
	selectRow: `SELECT version, body, mac FROM state_rows WHERE kind = $1 AND issuer = $2 AND id = $3`,
	listRows: `SELECT id, version, body, mac FROM state_rows WHERE kind = $1 AND issuer = $2 AND id > $3
		ORDER BY id LIMIT $4`,
	allRows: `SELECT kind, issuer, id, version, body, mac FROM state_rows WHERE (kind, issuer, id) > ($1, $2, $3)
		ORDER BY kind, issuer, id LIMIT $4`,

	insertLeaf:   `INSERT INTO log_leaves (seq, leaf, hashes) VALUES ($1, $2, $3)`,
	selectLeaves: `SELECT seq, leaf, hashes FROM log_leaves WHERE seq >= $1 ORDER BY seq LIMIT $2`,
	selectHashes: `SELECT hashes FROM log_leaves WHERE seq = $1`,
	selectSize:   `SELECT COALESCE(MAX(seq) + 1, 0) FROM log_leaves`,
	emptyLeaves:  `UPDATE log_leaves SET leaf = $1 WHERE seq >= $2 AND seq < $3`,

	upsertBlock: `INSERT INTO image_blocks (image, n, data) VALUES ($1, $2, $3)
		ON CONFLICT (image, n) DO UPDATE SET data = excluded.data`,
	selectBlock: `SELECT data FROM image_blocks WHERE image = $1 AND n = $2`,
}
