package probe

import (
	"bytes"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
)

// legacy is one SCP02 session with everything a vector says about it.
type legacy struct {
	answer    scp02.Answer
	messaging scp02.Messaging
	state     scp02.State
	responses scp02.Responses
}

// cards imports the card keys of SCP02; a vector may leave K-DEK out.
func (b *bench) cards(keys gpKeys) (s scp02.Static, err error) {
	if s.ENC, err = b.tdeaOf(derive.StaticCBC, keys.ENC); err != nil {
		return s, err
	}
	if s.MAC, err = b.tdeaOf(derive.StaticCBC, keys.MAC); err != nil {
		return s, err
	}
	if len(keys.DEK) > 0 {
		s.DEK, err = b.tdeaOf(derive.StaticCBC, keys.DEK)
	}
	return s, err
}

// sessionKeys refers to the session keys of a sequence counter and releases them with
// the bench.
func (b *bench) sessionKeys(keys gpKeys, counter uint16) (scp02.Session, error) {
	s, err := b.cards(keys)
	if err != nil {
		return scp02.Session{}, err
	}
	k, err := scp02.SessionKeys(s, counter)
	b.cleanup = append([]func(){func() { b.token.Release(k.Keys()...) }}, b.cleanup...)
	return k, err
}

// authenticateLegacy runs INITIALIZE UPDATE and EXTERNAL AUTHENTICATE with a fixed host
// challenge, which only vectors may choose. aid is empty where the card challenge is
// not to be checked.
func (b *bench) authenticateLegacy(keys gpKeys, host, answer []byte, m scp02.Messaging, aid []byte) (*legacy, apdu.Command, error) {
	none := apdu.Command{}
	if !scp02.ValidI(m.I) {
		return nil, none, skip(fmt.Sprintf("SCP02 with i = %02X is not supported", m.I))
	}
	if m.I&scp02.IExplicit == 0 {
		return nil, none, skip(fmt.Sprintf("i = %02X initiates without INITIALIZE UPDATE", m.I))
	}
	if len(host) != scp02.HostChallengeBytes {
		return nil, none, fmt.Errorf("a host challenge has 8 bytes, not %d", len(host))
	}
	a, err := scp02.ParseAnswer(answer)
	if err != nil {
		return nil, none, err
	}
	if m.Keys, err = b.sessionKeys(keys, a.Counter); err != nil {
		return nil, none, err
	}
	m.Token = b.token
	if err := scp02.VerifyCard(b.ctx, b.token, m.Keys, host, a); err != nil {
		return nil, none, fmt.Errorf("card cryptogram: %w", err)
	}
	if m.I&scp02.IPseudo != 0 && len(aid) > 0 {
		if err := scp02.VerifyChallenge(b.ctx, b.token, m.Keys, a, aid); err != nil {
			return nil, none, fmt.Errorf("pseudo-random card challenge: %w", err)
		}
	}
	cmd, state, err := m.ExternalAuthenticate(b.ctx, host, a)
	return &legacy{answer: a, messaging: m, state: state, responses: state.Responses()}, cmd, err
}

// runLegacy replays a case.
func (c gpCase) runLegacy(b *bench) error {
	s, err := c.openLegacy(b)
	if err != nil {
		return err
	}
	for _, m := range c.Commands {
		if m.incomparable() {
			s.follow(m)
			continue
		}
		if err := s.exchange(b, m); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// openLegacy compares everything up to EXTERNAL AUTHENTICATE.
func (c gpCase) openLegacy(b *bench) (*legacy, error) {
	answer, err := apdu.ParseResponse(c.InitializeUpdate.Response)
	if err != nil {
		return nil, err
	}
	if answer.SW != apdu.Success || len(c.SecurityLevel) != 1 || len(c.I) != 1 {
		return nil, errors.New("the case has no security level, no i parameter, or no answer to INITIALIZE UPDATE")
	}
	if err := equalInitializeUpdate(c.InitializeUpdate.Command, c.HostChallenge); err != nil {
		return nil, err
	}
	m := scp02.Messaging{Level: scp02.Level(c.SecurityLevel[0]), I: c.I[0]}
	s, cmd, err := b.authenticateLegacy(c.StaticKeys, c.HostChallenge, answer.Data, m, c.AID)
	if err != nil {
		return nil, err
	}
	if got := cmd.Bytes(); !bytes.Equal(got, c.ExternalAuthenticate.Command) {
		return nil, mismatch("EXTERNAL AUTHENTICATE", got, c.ExternalAuthenticate.Command)
	}
	return s, errors.Join(allStated([]statedValue{
		{"the answer to EXTERNAL AUTHENTICATE", []byte{0x90, 0x00}, c.ExternalAuthenticate.Response},
		{"the C-MAC of EXTERNAL AUTHENTICATE", s.state.MAC[:], c.ExternalAuthenticate.CMAC},
		{"the key diversification data", s.answer.KDD, c.KDD},
		{"the card challenge", s.answer.CardChallenge, c.CardChallenge},
		{"the card cryptogram", s.answer.CardCryptogram, c.CardCryptogram},
		{"the sequence counter", []byte{byte(s.answer.Counter >> 8), byte(s.answer.Counter)}, c.Counter},
		{"the host cryptogram", cmd.Data[:8], c.HostCryptogram},
	}), c.SessionKeys.checkLegacy(b, s.messaging.Keys))
}

func (c sessionKeys) checkLegacy(b *bench, s scp02.Session) error {
	for _, k := range []struct {
		what string
		key  *derive.Key
		want []byte
	}{
		{"S-ENC", s.ENC, c.ENC}, {"S-MAC", s.MAC.Whole(), c.MAC}, {"S-RMAC", s.RMAC.Whole(), c.RMAC}, {"the session DEK", s.DEK, c.DEK},
	} {
		if len(k.want) == 0 {
			continue
		}
		if k.key == nil {
			return fmt.Errorf("%s has no base key", k.what)
		}
		if err := b.equalKey(k.what, k.key, k.want); err != nil {
			return err
		}
	}
	return nil
}

// follow takes over the state in which the reference program left the session.
func (s *legacy) follow(m gpCommand) {
	if len(m.CMAC) == len(s.state.MAC) {
		s.state.MAC, s.state.Chained = [8]byte(m.CMAC), true
	}
	if len(m.RMAC) == len(s.responses.MAC) {
		s.responses.MAC = [8]byte(m.RMAC)
	}
}

// exchange wraps one command and unwraps its response.
func (s *legacy) exchange(b *bench, m gpCommand) error {
	plain, err := apdu.ParseCommand(m.Plain)
	if err != nil {
		return err
	}
	if err := s.wrapAs(b, plain, m.Wrapped); err != nil {
		return err
	}
	if s.messaging.Level != 0 {
		if err := equalStated("the C-MAC", s.state.MAC[:], m.CMAC); err != nil {
			return err
		}
	}
	if len(m.Response) == 0 {
		return nil
	}
	if err := s.unwrap(b, plain, m.Response, m.ResponsePlain); err != nil || s.messaging.Level&scp02.RMAC == 0 {
		return err
	}
	return equalStated("the R-MAC", s.responses.MAC[:], m.RMAC)
}

// wrapAs wraps a command in the one of two forms that a command without data may have
// under C-DECRYPTION; both leave the same state.
func (s *legacy) wrapAs(b *bench, plain apdu.Command, want []byte) error {
	var got []byte
	for _, pad := range []bool{true, false} {
		form := *s
		form.messaging.PadEmpty = pad
		w, err := form.wrap(b, plain)
		if err != nil {
			return err
		}
		w.Ne = 0 // reference programs disagree about Le, which no MAC covers
		if got = w.Bytes(); bytes.Equal(got, want) {
			s.state = form.state
			return nil
		}
	}
	return mismatch("the wrapped command", got, want)
}

func (s *legacy) wrap(b *bench, plain apdu.Command) (apdu.Command, error) {
	w, next, err := s.messaging.Wrap(b.ctx, s.state, plain)
	s.state = next
	return w, err
}

func (s *legacy) unwrap(b *bench, command apdu.Command, response, plain []byte) error {
	r, err := apdu.ParseResponse(response)
	if err != nil {
		return err
	}
	u, next, err := s.messaging.Unwrap(b.ctx, s.responses, command, r)
	if err != nil {
		return fmt.Errorf("unwrapping: %w", err)
	}
	s.responses = next
	if got := u.Bytes(); !bytes.Equal(got, plain) {
		return mismatch("the unwrapped response", got, plain)
	}
	return nil
}

// putKeyLegacy builds the key blocks for the case's new keys and compares them with
// what the reference programs sent: in plain, or with a C-MAC alone where the card
// refused the command and nobody noted the plain one.
func (c gpCase) putKeyLegacy(b *bench) error {
	s, err := c.openLegacy(b)
	if err != nil {
		return err
	}
	data := bytes.Clone(c.PutKey.NewKVN)
	for _, v := range [][]byte{c.PutKey.NewKeys.ENC, c.PutKey.NewKeys.MAC, c.PutKey.NewKeys.DEK} {
		k, err := b.tdeaOf(derive.Transport, v)
		if err != nil {
			return err
		}
		block, err := s.messaging.KeyBlock(b.ctx, b.token, k)
		if err != nil {
			return err
		}
		data = append(data, block...)
	}
	for _, peer := range c.PutKey.ByPeer {
		if cmd, err := apdu.ParseCommand(peer.Plain); err == nil && bytes.Equal(cmd.Data, data) {
			return nil
		}
		cmd, err := apdu.ParseCommand(peer.Wrapped)
		if n := len(cmd.Data) - 8; err == nil && len(peer.Plain) == 0 && n > 0 && bytes.Equal(cmd.Data[:n], data) {
			return nil
		}
	}
	return b.otherBlocks(s.messaging, errors.New("no reference program sent these key blocks"))
}
