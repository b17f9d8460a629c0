//go:build !canary_rows

package ledger

// believeRows is a seeded bug: it has the ledger believe what the database says of
// a row. The suite of the rogue administrator must fail with it (TestCanaryRows).
const believeRows = false
