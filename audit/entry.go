package audit

import (
	"fmt"
	"time"
)

// EntryBytesMax is the greatest length of an encoded entry in bytes.
const EntryBytesMax = 8 << 10

// DetailPairsMax is the greatest number of pairs in Entry.Detail.
const DetailPairsMax = 16

// Digest is a SHA-256 digest; the zero value means none.
type Digest [32]byte

// Decision says whether the service let the caller have the operation.
type Decision string

// The decisions.
const (
	Allowed Decision = "allowed"
	Refused Decision = "refused"
)

// Algorithm is the status of the algorithms that the operation used.
type Algorithm string

// The statuses; empty means that no cryptographic algorithm was used.
const (
	Approved Algorithm = "approved"
	Legacy   Algorithm = "legacy"
)

// Actors that are not named by a SPIFFE URI.
const (
	// ActorService is the service itself, e.g. when it starts.
	ActorService = "service"
	// ActorAnonymous is a caller that presented no identity and was refused.
	ActorAnonymous = "anonymous"
)

// OriginConsole is the origin of a request by somebody at the machine.
const OriginConsole = "console"

// Outcomes that are not fault codes.
const (
	// OutcomeOK: the operation happened.
	OutcomeOK = "ok"
	// OutcomePending: this entry is an intent; a later one with Intent set to its
	// sequence says how it ended.
	OutcomePending = "pending"
	// OutcomeUnknown: the service died between intent and outcome.
	OutcomeUnknown = "outcome_unknown"
)

// Entry is one record of the log. Empty strings, zero digests and an empty
// Detail mean none. No field may hold a key value, a PAN or plaintext; that is
// the caller's duty.
type Entry struct {
	Sequence  int64     // number of the leaf, from 0
	Time      time.Time // when the entry was made, in UTC
	Actor     string    // SPIFFE URI, ActorService or ActorAnonymous
	Origin    string    // IP address of the caller or OriginConsole
	Role      string    // e.g. "update-server"
	Issuer    string
	Operation string // e.g. "channel.authenticate"
	Object    string // resource name
	Key       string // resource name of a key version
	Request   string // request id
	Digest    Digest // of the request
	Decision  Decision
	Outcome   string // OutcomeOK, OutcomePending, OutcomeUnknown or a fault code
	Intent    *int64 // sequence of the intent that this entry closes
	Algorithm Algorithm
	Card      string // pseudonym, lower-case hex
	Previous  Digest // of the object's state before
	State     Digest // of the object's state after
	Detail    map[string]string
}

// FieldError says which field of an entry is not acceptable. It never repeats
// the value, because a refused value may be anything.
type FieldError struct {
	Field  string // name of the line
	Reason string
}

// Error formats the field and the reason.
func (e *FieldError) Error() string {
	return fmt.Sprintf("audit: entry field %s: %s", e.Field, e.Reason)
}

func bad(field, reason string) error { return &FieldError{field, reason} }

// Validate returns a *FieldError if the encoding cannot hold the entry.
func (e *Entry) Validate() error {
	switch {
	case e.Sequence < 0:
		return bad("sequence", "is negative")
	case e.Time.IsZero() || e.Time.UTC().Year() < 0 || e.Time.UTC().Year() > 9999:
		return bad("time", "is zero or has no four-digit year")
	case e.Intent != nil && (*e.Intent < 0 || *e.Intent >= e.Sequence):
		return bad("intent", "is not an earlier sequence")
	case e.Decision != Allowed && e.Decision != Refused:
		return bad("decision", "is not allowed or refused")
	case e.Algorithm != "" && e.Algorithm != Approved && e.Algorithm != Legacy:
		return bad("algorithm", "is not approved or legacy")
	}
	for _, f := range e.words() {
		if f.value == "" && f.optional {
			continue
		}
		if !f.valid(f.value) {
			return bad(f.name, "has a character or a length that is not allowed")
		}
	}
	return validDetail(e.Detail)
}

// word is a field whose value is a string with an alphabet.
type word struct {
	name, value string
	optional    bool
	valid       func(string) bool
}

func (e *Entry) words() [10]word {
	return [10]word{
		{"actor", e.Actor, false, validActor},
		{"origin", e.Origin, true, validOrigin},
		{"role", e.Role, true, validName},
		{"issuer", e.Issuer, true, validName},
		{"operation", e.Operation, false, validOperation},
		{"object", e.Object, true, validResource},
		{"key", e.Key, true, validResource},
		{"request", e.Request, true, validRequest},
		{"outcome", e.Outcome, false, validCode},
		{"card", e.Card, true, validCard},
	}
}

func validDetail(detail map[string]string) error {
	if len(detail) > DetailPairsMax {
		return bad("detail", "has too many pairs")
	}
	for k, v := range detail {
		if !validCode(k) || !validDetailValue(v) {
			return bad("detail", "has a character or a length that is not allowed")
		}
	}
	return nil
}
