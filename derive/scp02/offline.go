package scp02

import (
	"context"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Offline is a session with a card that is not there. Its keys follow from the sequence
// counter alone, so all that the card would say is known before: its challenge where that
// is pseudo-random (i 45, 55, 75), nothing where initiation is implicit (i 1A).
//
// Its level is 01: a script that encrypts could be sent to the card again and again by
// whoever holds it, each time spoilt in another place ([AF]).
type Offline struct {
	Keys          Static
	HostChallenge []byte // 8 bytes; not used where initiation is implicit
	KVN           byte
	Counter       uint16
	AID           []byte // of the Security Domain, 5 to 16 bytes
	I             byte
}

// Prepare returns the session's keys and its commands: INITIALIZE UPDATE and EXTERNAL
// AUTHENTICATE, neither where initiation is implicit, and the secured script. A card whose
// counter is another one, or whose keys are others, refuses the first command with a MAC
// and so all that follows. The card proves nothing to the host.
func (o Offline) Prepare(ctx context.Context, t derive.TDEAToken, script []apdu.Command) (Session, []apdu.Command, error) {
	explicit := o.I&IExplicit != 0
	switch {
	case !ValidI(o.I) || explicit && o.I&IPseudo == 0:
		return Session{}, nil, fault.New(fault.InvalidInput, "a script for a card of SCP02 that is not there needs i 45, 55, 75 or 1A: others choose their challenge")
	case explicit && len(o.HostChallenge) != HostChallengeBytes:
		return Session{}, nil, fault.New(fault.InvalidInput, "a host challenge has 8 bytes")
	}
	keys, err := SessionKeys(o.Keys, o.Counter)
	if err != nil {
		return keys, nil, err
	}
	m := Messaging{Token: t, Keys: keys, Level: CMAC, I: o.I}
	var out []apdu.Command
	var state State
	if explicit {
		var mac []byte
		if mac, err = overAID(ctx, t, keys, o.AID); err != nil {
			return keys, nil, err
		}
		var ext apdu.Command
		if ext, state, err = m.ExternalAuthenticate(ctx, o.HostChallenge, Answer{Counter: o.Counter, CardChallenge: mac[:challengeBytes]}); err != nil {
			return keys, nil, err
		}
		out = append(out, InitializeUpdate(o.KVN, o.HostChallenge), ext)
	} else if state, err = m.Implicit(ctx, o.AID); err != nil {
		return keys, nil, err
	}
	for i, plain := range script {
		var w apdu.Command
		if w, state, err = m.Wrap(ctx, state, plain); err != nil {
			return keys, nil, fmt.Errorf("command %d of the script: %w", i+1, err)
		}
		out = append(out, w)
	}
	return keys, out, nil
}
