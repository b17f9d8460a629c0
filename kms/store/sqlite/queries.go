package sqlite

// query names a statement; a session prepares each at most once.
type query int

const (
	beginWrite query = iota
	beginRead
	commit
	rollback
	savepoint
	release
	rollbackTo
	insertRow
	updateRow
	selectRow
	listRows
	insertLeaf
	insertHash
	selectLeaves
	selectHashes
	selectSize
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
	savepoint:  `SAVEPOINT try`,
	release:    `RELEASE SAVEPOINT try`,
	rollbackTo: `ROLLBACK TO SAVEPOINT try`,

	insertRow: `INSERT INTO state_rows (kind, issuer, id, version, body) VALUES ($1, $2, $3, 1, $4) ON CONFLICT DO NOTHING`,
	updateRow: `UPDATE state_rows SET version = $4, body = $5 WHERE kind = $1 AND issuer = $2 AND id = $3 AND version = $4 - 1`,
	selectRow: `SELECT version, body FROM state_rows WHERE kind = $1 AND issuer = $2 AND id = $3`,
	listRows: `SELECT id, version, body FROM state_rows WHERE kind = $1 AND issuer = $2 AND id > $3
		ORDER BY id LIMIT $4`,

	insertLeaf:   `INSERT INTO log_leaves (seq, leaf) VALUES ($1, $2)`,
	insertHash:   `INSERT INTO log_hashes (idx, hash) VALUES ($1, $2)`,
	selectLeaves: `SELECT seq, leaf FROM log_leaves WHERE seq >= $1 ORDER BY seq LIMIT $2`,
	selectHashes: `SELECT idx, hash FROM log_hashes WHERE idx BETWEEN $1 AND $2 ORDER BY idx`,
	selectSize:   `SELECT COALESCE(MAX(seq) + 1, 0) FROM log_leaves`,

	upsertBlock: `INSERT INTO image_blocks (image, n, data) VALUES ($1, $2, $3)
		ON CONFLICT (image, n) DO UPDATE SET data = excluded.data`,
	selectBlock: `SELECT data FROM image_blocks WHERE image = $1 AND n = $2`,
}
