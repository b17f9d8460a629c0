// Package fault says why something did not happen.
//
// There is one list of codes. The API answers with them, the audit log records
// them as outcomes and metrics use them as labels, so a reader who meets a code
// in one place can look for it in the others. A code is part of the contract
// with callers: it is never renamed and never given a second meaning.
//
// An *Error is something its reader can act on. Every other error is wrapped
// with fmt.Errorf and reaches the caller as Internal.
//
// A failed proof (card cryptogram, MAC, CRC after decryption) is always
// ProofFailed with the same empty detail: which check failed, at which position
// and with which expected value is what an attacker would ask.
package fault

import "errors"

// Code is a stable, machine-readable reason in snake_case.
type Code string

// The reasons why an operation did not happen.
const (
	// OK is the outcome of an operation that did happen; it never stands in an Error.
	OK Code = "ok"
	// InvalidInput: the request is malformed; sending it again cannot help.
	InvalidInput Code = "invalid_input"
	// Unauthenticated: the caller presented no identity that the service knows.
	Unauthenticated Code = "unauthenticated"
	// Forbidden: the caller's role, issuer or card range does not allow this.
	Forbidden Code = "forbidden"
	// NotFound: no such object for this caller. Objects of other issuers answer the same.
	NotFound Code = "not_found"
	// Conflict: the object exists already, or is in a state that does not allow this.
	Conflict Code = "conflict"
	// ProofFailed: a cryptogram, MAC or check value did not verify.
	ProofFailed Code = "proof_failed"
	// ChannelClosed: the channel ended, by its life time, by an error or by its user.
	ChannelClosed Code = "channel_closed"
	// WrongNode: the channel lives on another node, which its id names.
	WrongNode Code = "wrong_node"
	// ChannelState: the operation is out of order for this channel.
	ChannelState Code = "channel_state"
	// CardQuarantined: the card failed too many proofs in a row and is not served.
	CardQuarantined Code = "card_quarantined"
	// CardCounter: the card's sequence counter did not rise; it may be a clone.
	CardCounter Code = "card_counter_not_rising"
	// CardRefused: the card answered with an error status word where success was required.
	CardRefused Code = "card_refused"
	// KeyState: the key's life-cycle state does not allow this use.
	KeyState Code = "key_state"
	// LegacyRefused: a deprecated protocol is off, and no exception of officers allows it now.
	LegacyRefused Code = "legacy_refused"
	// ProfileMismatch: the card, or the key version, is not what the card profile says.
	ProfileMismatch Code = "profile_mismatch"
	// ImageUnverified: the image's content or signature does not verify.
	ImageUnverified Code = "image_unverified"
	// VersionMismatch: the card does not run the version that the image starts from.
	VersionMismatch Code = "version_mismatch"
	// Downgrade: the image's security counter is below the card's.
	Downgrade Code = "downgrade_refused"
	// IdempotencyMismatch: the Idempotency-Key was used before with another request.
	IdempotencyMismatch Code = "idempotency_mismatch"
	// TooLarge: the body or the list is larger than the limit.
	TooLarge Code = "too_large"
	// RateLimited: too many requests of this caller; Retry-After says when.
	RateLimited Code = "rate_limited"
	// TokenUnavailable: the PKCS#11 token is busy or lost; Retry-After says when.
	TokenUnavailable Code = "token_unavailable"
	// TokenUnable: the PKCS#11 token cannot do this inside, and it is never done outside.
	TokenUnable Code = "token_unable"
	// VaultUnavailable: the service has not begun, because Vault does not give what it needs; it waits.
	VaultUnavailable Code = "vault_unavailable"
	// PINRefused: the service has not begun, because the token refused its PIN; a person must act.
	PINRefused Code = "pin_refused"
	// AuditUnavailable: the audit log refused the entry, so the operation did not happen.
	AuditUnavailable Code = "audit_unavailable"
	// AuditFull: the disk has no room for the audit log, so nothing is done until it has.
	AuditFull Code = "audit_full"
	// ClockUnsafe: the clock went back or jumped, so nothing is done until it is right.
	ClockUnsafe Code = "clock_unsafe"
	// ObjectTampered: the database holds another state of the object than was written.
	ObjectTampered Code = "object_tampered"
	// RollbackDetected: the database as a whole is not the one that was written.
	RollbackDetected Code = "rollback_detected"
	// ApprovalRequired: too few officers have approved; another approval helps.
	ApprovalRequired Code = "approval_required"
	// ApprovalVoid: the proposal was used or rejected, or its object changed since.
	ApprovalVoid Code = "approval_void"
	// ApprovalExpired: the proposal's time is over.
	ApprovalExpired Code = "approval_expired"
	// Halted: an officer or operator stopped all use of keys; officers resume it by an approved proposal.
	Halted Code = "halted"
	// Internal: none of the above; the request id leads to the operator's log.
	Internal Code = "internal"
)

// Codes returns every code that an Error may carry, in a fixed order. The
// OpenAPI document and the metrics are generated from it.
func Codes() []Code {
	return []Code{
		InvalidInput, Unauthenticated, Forbidden, NotFound, Conflict, ProofFailed,
		ChannelClosed, WrongNode, ChannelState, CardQuarantined, CardCounter, CardRefused,
		KeyState, LegacyRefused, ProfileMismatch, ImageUnverified, VersionMismatch, Downgrade, IdempotencyMismatch,
		TooLarge, RateLimited, TokenUnavailable, TokenUnable, VaultUnavailable, PINRefused, AuditUnavailable, AuditFull, ClockUnsafe,
		ObjectTampered, RollbackDetected, ApprovalRequired, ApprovalVoid, ApprovalExpired, Halted, Internal,
	}
}

// Error is a reason that somebody can act on.
type Error struct {
	Code   Code
	Detail string // for the caller; holds no secret and no input value
	Err    error  // for the operator's log; may be nil
}

// New returns an Error with a detail for the caller.
func New(code Code, detail string) *Error { return &Error{Code: code, Detail: detail} }

// Because returns an Error that keeps err for the operator's log. The caller
// sees only code and detail.
func Because(code Code, detail string, err error) *Error {
	return &Error{Code: code, Detail: detail, Err: err}
}

// Proof returns the one answer to every failed proof.
func Proof() *Error { return &Error{Code: ProofFailed, Detail: "the proof does not verify"} }

// Error formats the code, the detail and the cause, for logs.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's tree, OK for nil and
// Internal when there is none.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
