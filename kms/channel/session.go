package channel

import (
	"context"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
)

// session is an authenticated session of one protocol with its chaining values. It is
// a value: a step returns the session that follows, which replaces the old one only
// when what the step computed leaves the channel.
type session interface {
	wrap(ctx context.Context, c apdu.Command) (apdu.Command, session, error)
	// unwrap checks the response to a command that is out; of those, the oldest first.
	unwrap(ctx context.Context, s sent, r apdu.Response) (apdu.Response, session, error)
	// covered returns what of a plain command the check of its response needs, so that
	// command data are not kept longer than they must be.
	covered(c apdu.Command) apdu.Command
	dataMax(extended bool) int
	keys() []*derive.Key
}

// sent is a command whose response is still out.
type sent struct {
	plain apdu.Command // what its session covers, at least the header
	after session      // that the command left
}

// headerOf drops the data of a command.
func headerOf(c apdu.Command) apdu.Command {
	return apdu.Command{CLA: c.CLA, INS: c.INS, P1: c.P1, P2: c.P2}
}

// session03 is a session that secures messages as SCP03 does: a response chains from the
// command that it answers.
type session03 struct {
	*scp03.Messaging
	state  scp03.State
	agreed *derive.Key // of SCP11: what the keys follow from, and are made again from
}

func (s session03) covered(c apdu.Command) apdu.Command { return headerOf(c) }

func (s session03) wrap(ctx context.Context, c apdu.Command) (w apdu.Command, next session, err error) {
	w, s.state, err = s.Wrap(ctx, s.state, c)
	return w, s, err
}

func (s session03) unwrap(ctx context.Context, of sent, r apdu.Response) (apdu.Response, session, error) {
	u, err := s.Unwrap(ctx, of.after.(session03).state, r)
	return u, s, err
}

func (s session03) dataMax(extended bool) int {
	return s.DataMax(apdu.Command{Extended: extended}.DataMax())
}

func (s session03) keys() []*derive.Key {
	return []*derive.Key{s.Keys.ENC, s.Keys.MAC, s.Keys.RMAC, s.agreed}
}
