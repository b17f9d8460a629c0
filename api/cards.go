package api

import "time"

// Card is what the service remembers of one card.
type Card struct {
	KDD             Hex       `json:"kdd" format:"hex" doc:"Key diversification data, 10 bytes."`
	Issuer          string    `json:"issuer"`
	KVN             HexByte   `json:"kvn" format:"hex" doc:"Key Version Number of the keys that last proved the card; 00 for none."`
	SequenceCounter *uint32   `json:"sequenceCounter,omitempty" format:"int64" doc:"Highest sequence counter seen, if the card has one."`
	Failures        int       `json:"failures" doc:"Failed proofs in a row."`
	Quarantined     bool      `json:"quarantined" doc:"The card is refused until it is released."`
	PackageSequence uint32    `json:"packageSequence" format:"int64" doc:"Sequence of the newest package made; 0 for none."`
	Package         string    `json:"package,omitempty" doc:"Id of the newest package."`
	KeyVersion      string    `json:"keyVersion,omitempty" doc:"The newest key version that proved the card."`
	KeyVersionKVN   HexByte   `json:"keyVersionKvn,omitzero" format:"hex" doc:"Its Key Version Number."`
	Move            *Move     `json:"move,omitempty" doc:"On its way to a newer key version."`
	LastProved      time.Time `json:"lastProved,omitzero" doc:"When the card last proved itself; absent if never."`
}

// CardList is one page of cards.
type CardList struct {
	Cards         []Card `json:"cards"`
	NextPageToken string `json:"nextPageToken,omitempty" doc:"Asks for the next page; absent at the end. A page may be shorter than asked for."`
}

// KCV is a key check value with its method.
type KCV struct {
	Method string `json:"method" enum:"gp-aes,tdea-zero,aes-cmac"`
	Value  string `json:"value" doc:"6 upper-case hexadecimal digits."`
}

// Key is what is known of one version of a key: everything but its value.
type Key struct {
	Name            string         `json:"name" doc:"Resource name issuers/{issuer}/keys/{key}/versions/{n}."`
	Key             string         `json:"key"`
	Version         int            `json:"version"`
	Token           string         `json:"token,omitempty" doc:"Name of the token that holds it; absent for the main one."`
	Usage           string         `json:"usage" doc:"gp-scp03, gp-scp02, gp-scp11, card-update, emv-ac, emv-smi, emv-smc or ota."`
	Algorithm       string         `json:"algorithm" doc:"Of the master, or of the pair."`
	CardAlgorithm   string         `json:"cardAlgorithm" doc:"Of the card keys derived from it; empty for a pair."`
	Diversification string         `json:"diversification"`
	KVN             HexByte        `json:"kvn" format:"hex" doc:"Key Version Number on the cards; derivation key index of EMV; 00 for a pair."`
	State           string         `json:"state" doc:"SP 800-57 life-cycle state."`
	Created         time.Time      `json:"created,omitzero" doc:"Begin of the cryptoperiod."`
	Ends            time.Time      `json:"ends,omitzero" doc:"End of the cryptoperiod: from then on the version only moves its cards."`
	LegacyUntil     time.Time      `json:"legacyUntil,omitzero" doc:"End of the exception under which a gp-scp02 version serves; absent for none, and then it serves nothing."`
	PublicKey       Hex            `json:"publicKey,omitempty" format:"hex" doc:"SubjectPublicKeyInfo of a gp-scp11 version in DER: what an authority certifies."`
	DestroyAt       time.Time      `json:"destroyAt,omitzero" doc:"When its objects leave the token."`
	KCVs            map[string]KCV `json:"kcvs" doc:"Key check values by part: master, or enc, mac and dek."`
}

// KeyList is the key versions of an issuer.
type KeyList struct {
	Keys []Key `json:"keys"`
}

// AuditEntry is one entry of the audit log.
type AuditEntry struct {
	Sequence int64  `json:"sequence"`
	Text     string `json:"text" doc:"The encoding that the tree covers, byte for byte."`
}

// AuditEntries is a run of entries.
type AuditEntries struct {
	Entries []AuditEntry `json:"entries" doc:"Empty at the end of the log."`
	Next    int64        `json:"next" doc:"Sequence to go on from."`
	First   int64        `json:"first" doc:"The first entry that is still here; older ones are in exported segments."`
}

// AuditProof proves that the tree of this size holds an entry, [RFC 6962]
// Section 2.1.1.
type AuditProof struct {
	Sequence int64 `json:"sequence"`
	Size     int64 `json:"size"`
	Hashes   []Hex `json:"hashes" format:"hex" doc:"Audit path, from the leaf's sibling upwards."`
}

// AuditConsistency proves that the tree of one size starts with that of another,
// [RFC 6962] Section 2.1.2.
type AuditConsistency struct {
	Older  int64 `json:"older"`
	Newer  int64 `json:"newer"`
	Hashes []Hex `json:"hashes" format:"hex"`
}

// Health is the answer of the health paths.
type Health struct {
	Status string        `json:"status" enum:"ok,ready,degraded,halted" doc:"Degraded: ready, but something that the service can do without for a while is away. Halted: ready, but all use of keys is stopped until officers resume it (system.resume)."`
	Tokens []TokenHealth `json:"tokens,omitempty" doc:"The main token first; only of readyz."`
	// Degraded names what is away, beside tokens.
	Degraded []string `json:"degraded,omitempty" enum:"vault,log-keeper" doc:"vault does not answer; log-keeper: an anchor or a witness has lacked what is signed for more than a minute (beside anchors.tokenEvery)."`
}

// TokenHealth is what one token does now.
type TokenHealth struct {
	Name   string `json:"name" doc:"As key versions name it; main for the one that they do not name."`
	State  string `json:"state" enum:"ready,unavailable"`
	Detail string `json:"detail,omitempty" doc:"Why its keys do not serve."`
}
