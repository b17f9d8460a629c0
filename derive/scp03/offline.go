package scp03

import (
	"context"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// CounterMax is the greatest sequence counter, of 24 bits.
const CounterMax = 1<<24 - 1

// Offline is a session with a card that is not there: its challenge is pseudo-random
// ("i" & 10), so it follows from K-ENC, the sequence counter that the card will have
// and the AID of its Security Domain ([AmdD], Section 6.2.2.1).
type Offline struct {
	Keys          Static
	HostChallenge []byte // 8 or 16 bytes
	KVN           byte
	Counter       uint32
	AID           []byte
	// Level is 01 or 03: nobody is there to check protected responses.
	Level Level
	Options
}

// Prepare returns the session's keys and its commands: INITIALIZE UPDATE, EXTERNAL
// AUTHENTICATE and the secured script. A card whose counter is another one, or whose
// keys are others, refuses EXTERNAL AUTHENTICATE and so all that follows. The card
// proves nothing to the host: whoever holds these commands can run them once, on that
// card and at that counter.
func (o Offline) Prepare(ctx context.Context, t derive.Token, c derive.Challenger, script []apdu.Command) (Session, []apdu.Command, error) {
	n := len(o.HostChallenge)
	switch {
	case n != int(S8) && n != int(S16):
		return Session{}, nil, fault.New(fault.InvalidInput, "a host challenge has 8 or 16 bytes")
	case o.Level != CMAC && o.Level != CMAC|CDecryption:
		return Session{}, nil, fault.New(fault.InvalidInput, "a script for a card that is not there has level 01 or 03")
	case o.Counter > CounterMax:
		return Session{}, nil, fault.New(fault.InvalidInput, "a sequence counter has 24 bits")
	case len(o.AID) < 5 || len(o.AID) > 16:
		return Session{}, nil, fault.New(fault.InvalidInput, "an AID has 5 to 16 bytes")
	}
	challenge, err := c.Challenge(ctx, o.Keys.ENC, challengeStep(o.Counter, o.AID, n))
	if err != nil {
		return Session{}, nil, fmt.Errorf("computing the card challenge: %w", err)
	}
	keys := SessionKeys(o.Keys, o.HostChallenge, challenge)
	ext, state, err := ExternalAuthenticate(ctx, t, keys, o.Level, o.HostChallenge, challenge)
	if err != nil {
		return keys, nil, err
	}
	out := []apdu.Command{InitializeUpdate(o.KVN, o.HostChallenge), ext}
	m := Messaging{Token: t, Keys: keys, Level: o.Level, Mode: Mode(n), Options: o.Options}
	for i, plain := range script {
		var w apdu.Command
		if w, state, err = m.Wrap(ctx, state, plain); err != nil {
			return keys, nil, fmt.Errorf("command %d of the script: %w", i+1, err)
		}
		out = append(out, w)
	}
	return keys, out, nil
}
