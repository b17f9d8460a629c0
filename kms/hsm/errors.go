package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
)

// Error is a PKCS#11 function that did not return CKR_OK.
type Error struct {
	Function string // e.g. "C_DeriveKey"
	CKR      uint   // the return value
}

// Error formats the function and the return value.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Function, pkcs11.Error(e.CKR).Error())
}

// PINRefused reports whether the token refused its PIN.
func (e *Error) PINRefused() bool { return remedies[e.CKR] == stop }

// failed wraps the error of a PKCS#11 function, nil for nil.
func failed(function string, err error) error {
	if err == nil {
		return nil
	}
	var ckr pkcs11.Error
	if errors.As(err, &ckr) {
		return &Error{Function: function, CKR: uint(ckr)}
	}
	return fmt.Errorf("%s: %w", function, err)
}

// remedy is what has to happen before a failed call may be tried again.
type remedy int

const (
	giveUp     remedy = iota // the caller's fault or the token's inability
	newSession               // the session is spoilt
	findAgain                // the handle is stale
	reconnect                // the library or the token was lost
	stop                     // the PIN was refused: trying again could lock the token
)

var remedies = map[uint]remedy{
	pkcs11.CKR_OPERATION_ACTIVE:         newSession,
	pkcs11.CKR_SESSION_HANDLE_INVALID:   newSession,
	pkcs11.CKR_SESSION_CLOSED:           newSession,
	pkcs11.CKR_OBJECT_HANDLE_INVALID:    findAgain,
	pkcs11.CKR_KEY_HANDLE_INVALID:       findAgain,
	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED: reconnect,
	pkcs11.CKR_DEVICE_ERROR:             reconnect,
	pkcs11.CKR_DEVICE_REMOVED:           reconnect,
	pkcs11.CKR_TOKEN_NOT_PRESENT:        reconnect,
	pkcs11.CKR_USER_NOT_LOGGED_IN:       reconnect,
	pkcs11.CKR_PIN_INCORRECT:            stop,
	pkcs11.CKR_PIN_LOCKED:               stop,
	pkcs11.CKR_PIN_EXPIRED:              stop,
}

func remedyFor(err error) remedy {
	var e *Error
	if !errors.As(err, &e) {
		return giveUp
	}
	return remedies[e.CKR]
}

// report turns an error of this package into one for the service: what the
// token's state caused is TokenUnavailable; the rest passes, also what is one already.
func report(err error) error {
	var e *Error
	var said *fault.Error
	if err == nil || errors.As(err, &said) || !errors.As(err, &e) {
		return err
	}
	if unable(e) {
		return fault.Because(fault.TokenUnable, "the token cannot do this inside", err)
	}
	return fault.Because(fault.TokenUnavailable, "the token did not answer as it should", err)
}

// unable reports whether the token says that it cannot do this, whoever asks and whenever.
func unable(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.CKR {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCONSISTENT,
		pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_KEY_UNEXTRACTABLE:
		return true
	}
	return false
}
