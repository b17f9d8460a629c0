package main

import (
	"fmt"

	"cardkms/kms"
	"cardkms/kms/hsm"
)

// runbooks is where the page of each sealed state is, in the distribution.
const runbooks = "deploy/runbooks/"

// errSealed ends a start in a sealed state.
type errSealed struct {
	state kms.Sealed
	err   error
}

// Error names the state, its page and the reason.
func (e errSealed) Error() string {
	return fmt.Sprintf("sealed: %s (%s%s.md): %v", e.state, runbooks, e.state, e.err)
}

// Unwrap returns the reason.
func (e errSealed) Unwrap() error { return e.err }

// status tells a service manager whether another start may help.
func (e errSealed) status() int {
	if e.state == kms.RollbackDetected {
		return exitSealed
	}
	return exitTryLater
}

// sealedAtStart names the sealed state in which a node does not open.
func sealedAtStart(err error) error {
	state := kms.SealedBy(err)
	if state == "" && hsm.Away(err) {
		state = kms.HSMDown
	}
	if state == "" {
		return err
	}
	return errSealed{state, err}
}
