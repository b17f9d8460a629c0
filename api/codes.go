package api

import "net/http"

// Code is a stable, machine-readable reason for a refusal. The list is that of
// the service; audit outcomes and metric labels use the same words.
type Code string

// The codes.
const (
	InvalidInput        Code = "invalid_input"
	Unauthenticated     Code = "unauthenticated"
	Forbidden           Code = "forbidden"
	NotFound            Code = "not_found"
	Conflict            Code = "conflict"
	ProofFailed         Code = "proof_failed"
	ChannelClosed       Code = "channel_closed"
	WrongNode           Code = "wrong_node"
	ChannelState        Code = "channel_state"
	CardQuarantined     Code = "card_quarantined"
	CardCounter         Code = "card_counter_not_rising"
	CardRefused         Code = "card_refused"
	KeyState            Code = "key_state"
	LegacyRefused       Code = "legacy_refused"
	ProfileMismatch     Code = "profile_mismatch"
	ImageUnverified     Code = "image_unverified"
	VersionMismatch     Code = "version_mismatch"
	Downgrade           Code = "downgrade_refused"
	IdempotencyMismatch Code = "idempotency_mismatch"
	TooLarge            Code = "too_large"
	RateLimited         Code = "rate_limited"
	TokenUnavailable    Code = "token_unavailable"
	TokenUnable         Code = "token_unable"
	VaultUnavailable    Code = "vault_unavailable"
	PINRefused          Code = "pin_refused"
	AuditUnavailable    Code = "audit_unavailable"
	AuditFull           Code = "audit_full"
	ClockUnsafe         Code = "clock_unsafe"
	ObjectTampered      Code = "object_tampered"
	RollbackDetected    Code = "rollback_detected"
	ApprovalRequired    Code = "approval_required"
	ApprovalVoid        Code = "approval_void"
	ApprovalExpired     Code = "approval_expired"
	Halted              Code = "halted"
	Internal            Code = "internal"
)

// reason is what the API says for one code.
type reason struct {
	code   Code
	status int
	title  string
}

// reasons is the one table from code to HTTP status. An HTTP refusal that has no
// code of its own (405, 406, 408, 415) is invalid_input under its own status.
var reasons = []reason{
	{InvalidInput, http.StatusBadRequest, "The request is malformed."},
	{Unauthenticated, http.StatusUnauthorized, "The client certificate names no known client."},
	{Forbidden, http.StatusForbidden, "Your role, issuer or card range does not allow this."},
	{NotFound, http.StatusNotFound, "There is no such object for you."},
	{Conflict, http.StatusConflict, "The object's state does not allow this."},
	{ProofFailed, http.StatusUnprocessableEntity, "The proof does not verify."},
	{ChannelClosed, http.StatusGone, "The channel has ended."},
	{WrongNode, http.StatusMisdirectedRequest, "The channel lives on another node."},
	{ChannelState, http.StatusConflict, "The channel is not ready for this."},
	{CardQuarantined, http.StatusConflict, "The card is in quarantine."},
	{CardCounter, http.StatusConflict, "The card's sequence counter did not rise."},
	{CardRefused, http.StatusUnprocessableEntity, "The card answered with an error."},
	{KeyState, http.StatusConflict, "The key's state does not allow this use."},
	{LegacyRefused, http.StatusConflict, "No exception allows this deprecated protocol now."},
	{ProfileMismatch, http.StatusConflict, "The card profile does not fit the card or its keys."},
	{ImageUnverified, http.StatusUnprocessableEntity, "The image does not verify."},
	{VersionMismatch, http.StatusConflict, "The card does not run the version that the image replaces."},
	{Downgrade, http.StatusConflict, "The image's security counter is below the card's."},
	{IdempotencyMismatch, http.StatusUnprocessableEntity, "The Idempotency-Key belongs to another request."},
	{TooLarge, http.StatusRequestEntityTooLarge, "The request is too large."},
	{RateLimited, http.StatusTooManyRequests, "There are too many requests."},
	{TokenUnavailable, http.StatusServiceUnavailable, "The token is busy or lost."},
	{TokenUnable, http.StatusNotImplemented, "The token cannot do this."},
	{VaultUnavailable, http.StatusServiceUnavailable, "The service waits for Vault."},
	{PINRefused, http.StatusServiceUnavailable, "The token refused its PIN."},
	{AuditUnavailable, http.StatusServiceUnavailable, "The audit log refused the entry."},
	{AuditFull, http.StatusServiceUnavailable, "The audit log has no room."},
	{ClockUnsafe, http.StatusServiceUnavailable, "The clock of the service is wrong."},
	{ObjectTampered, http.StatusConflict, "The database holds another state of the object than was written."},
	{RollbackDetected, http.StatusServiceUnavailable, "The database is not the one that was written."},
	{ApprovalRequired, http.StatusConflict, "The proposal needs another approval."},
	{ApprovalVoid, http.StatusConflict, "The proposal is void."},
	{ApprovalExpired, http.StatusConflict, "The proposal has expired."},
	{Halted, http.StatusServiceUnavailable, "The service is halted."},
	{Internal, http.StatusInternalServerError, "The service failed."},
}

// Codes returns every code, in the order of the service's list.
func Codes() []Code {
	out := make([]Code, len(reasons))
	for i, r := range reasons {
		out[i] = r.code
	}
	return out
}

// find returns what the API says for a code; an unknown one is Internal.
func (c Code) find() reason {
	for _, r := range reasons {
		if r.code == c {
			return r
		}
	}
	return reasons[len(reasons)-1]
}

// Status returns the HTTP status that goes with the code.
func (c Code) Status() int { return c.find().status }

// Title returns a sentence that is the same for every occurrence.
func (c Code) Title() string { return c.find().title }

// Temporary reports whether the same request may succeed a moment later.
func (c Code) Temporary() bool {
	return c == RateLimited || c == TokenUnavailable || c == AuditUnavailable || c == AuditFull
}
