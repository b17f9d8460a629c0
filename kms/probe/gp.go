package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
)

type gpKeys struct {
	ENC octets `json:"enc"`
	MAC octets `json:"mac"`
	DEK octets `json:"dek"`
}

type gpCase struct {
	ID            string `json:"id"`
	Protocol      string `json:"protocol"`
	I             octets `json:"i"`
	SecurityLevel octets `json:"security_level"`
	MACMode       int    `json:"mac_mode"`
	AID           octets `json:"aid"`
	StaticKeys    gpKeys `json:"static_keys"`
	HostChallenge octets `json:"host_challenge"`
	stated
	SessionKeys      sessionKeys `json:"session_keys"`
	InitializeUpdate struct {
		Command  octets `json:"command"`
		Response octets `json:"response"`
	} `json:"initialize_update"`
	ExternalAuthenticate struct {
		Command  octets `json:"command"`
		Response octets `json:"response"`
		Chaining octets `json:"mac_chaining_after"`
		CMAC     octets `json:"c_mac"`
	} `json:"external_authenticate"`
	Commands []gpCommand `json:"commands"`
	PutKey   *struct {
		NewKVN  octets `json:"new_kvn"`
		NewKeys gpKeys `json:"new_keys"`
		ByPeer  map[string]struct {
			Plain   octets `json:"plain"`
			Wrapped octets `json:"wrapped"`
		} `json:"by_peer"`
	} `json:"put_key"`
}

type gpCommand struct {
	Name          string            `json:"name"`
	Plain         octets            `json:"plain"`
	Wrapped       octets            `json:"wrapped"`
	Response      octets            `json:"response"`
	ResponsePlain octets            `json:"response_plain"`
	Chaining      octets            `json:"mac_chaining_after"`
	Counter       *uint32           `json:"enc_counter"`
	CMAC          octets            `json:"c_mac"`
	RMAC          octets            `json:"r_mac"`
	Alternatives  map[string]octets `json:"accepted_alternatives"`
	Failed        json.RawMessage   `json:"reference_failed"`
}

// accepts reports whether the card took these bytes for the same command.
func (m gpCommand) accepts(b []byte) bool {
	for _, other := range m.Alternatives {
		if bytes.Equal(b, other) {
			return true
		}
	}
	return false
}

// incomparable reports that the reference program failed at this command.
func (m gpCommand) incomparable() bool {
	return len(m.Failed) > 0 && string(m.Failed) != "null" && string(m.Failed) != "false"
}

func runGP(ctx context.Context, t derive.VectorToken, raw json.RawMessage) []Result {
	var c gpCase
	if err := json.Unmarshal(raw, &c); err != nil {
		return []Result{{Fail, "?", err.Error()}}
	}
	run, putKey := c.run, c.putKey
	switch c.Protocol {
	case "SCP03":
	case "SCP02":
		run, putKey = c.runLegacy, c.putKeyLegacy
	default:
		return []Result{{Skip, c.ID, c.Protocol + " is not supported yet"}}
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	out := []Result{Judge(c.ID, run(b))}
	if c.PutKey != nil {
		out = append(out, Judge(c.ID+"/put-key", putKey(b)))
	}
	return out
}

// session is one SCP03 session with everything a vector says about it.
type session struct {
	answer    scp03.Answer
	static    scp03.Static
	keys      scp03.Session
	messaging scp03.Messaging
	state     scp03.State
}

// authenticate runs INITIALIZE UPDATE and EXTERNAL AUTHENTICATE with a fixed
// host challenge, which only vectors may choose.
func (b *bench) authenticate(keys gpKeys, host []byte, answer apdu.Response, level byte, aid []byte) (*session, apdu.Command, error) {
	var s session
	var err error
	if s.static.ENC, err = b.aes(derive.Static, keys.ENC); err != nil {
		return nil, apdu.Command{}, err
	}
	if s.static.MAC, err = b.aes(derive.Static, keys.MAC); err != nil {
		return nil, apdu.Command{}, err
	}
	mode := scp03.Mode(len(host))
	a, err := scp03.ParseAnswer(answer.Data, mode)
	if err != nil {
		return nil, apdu.Command{}, err
	}
	s.answer = a
	s.keys = scp03.SessionKeys(s.static, host, a.CardChallenge)
	b.cleanup = append([]func(){func() { b.token.Release(s.keys.ENC, s.keys.MAC, s.keys.RMAC) }}, b.cleanup...)
	if err := scp03.VerifyCard(b.ctx, b.token, s.keys, host, a); err != nil {
		return nil, apdu.Command{}, fmt.Errorf("card cryptogram: %w", err)
	}
	if a.CounterIncluded && len(aid) > 0 {
		if err := scp03.VerifyChallenge(b.ctx, b.token, s.static.ENC, a, aid); err != nil {
			return nil, apdu.Command{}, fmt.Errorf("pseudo-random card challenge: %w", err)
		}
	}
	l := scp03.Level(level)
	s.messaging = scp03.Messaging{Token: b.token, Keys: s.keys, Level: l, Mode: mode}
	cmd, state, err := scp03.ExternalAuthenticate(b.ctx, b.token, s.keys, l, host, a.CardChallenge)
	s.state = state
	return &s, cmd, err
}

func (c gpCase) run(b *bench) error {
	answer, err := apdu.ParseResponse(c.InitializeUpdate.Response)
	if err != nil {
		return err
	}
	if answer.SW != apdu.Success {
		return fmt.Errorf("the card answered INITIALIZE UPDATE with %s", answer.SW)
	}
	if len(c.SecurityLevel) != 1 || len(c.HostChallenge) != c.MACMode {
		return errors.New("the case has no security level, or a challenge of another length than its mode")
	}
	if err := equalInitializeUpdate(c.InitializeUpdate.Command, c.HostChallenge); err != nil {
		return err
	}
	aid := c.AID
	if len(c.Counter) == 0 {
		aid = nil
	}
	s, cmd, err := b.authenticate(c.StaticKeys, c.HostChallenge, answer, c.SecurityLevel[0], aid)
	if err != nil {
		return err
	}
	if got := cmd.Bytes(); !bytes.Equal(got, c.ExternalAuthenticate.Command) {
		return mismatch("EXTERNAL AUTHENTICATE", got, c.ExternalAuthenticate.Command)
	}
	if err := equalStated("the answer to EXTERNAL AUTHENTICATE", []byte{0x90, 0x00}, c.ExternalAuthenticate.Response); err != nil {
		return err
	}
	if err := c.check(s, cmd); err != nil {
		return err
	}
	if err := equalStated("the MAC chaining value of EXTERNAL AUTHENTICATE", s.state.Chaining[:], c.ExternalAuthenticate.Chaining); err != nil {
		return err
	}
	if err := c.SessionKeys.check(b, s); err != nil {
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

func (c sessionKeys) check(b *bench, s *session) error {
	for _, k := range []struct {
		what string
		key  *derive.Key
		want []byte
	}{
		{"S-ENC", s.keys.ENC, c.ENC},
		{"S-MAC", s.keys.MAC, c.MAC},
		{"S-RMAC", s.keys.RMAC, c.RMAC},
	} {
		if len(k.want) == 0 {
			continue
		}
		if err := b.equalKey(k.what, k.key, k.want); err != nil {
			return err
		}
	}
	return nil
}

// follow takes over the state in which the reference program left the session.
func (s *session) follow(m gpCommand) {
	if len(m.Chaining) == len(s.state.Chaining) {
		s.state.Chaining = [16]byte(m.Chaining)
	}
	if m.Counter != nil && *m.Counter > 0 {
		s.state.Counter = *m.Counter
	}
}

// exchange wraps one command and unwraps its response.
func (s *session) exchange(b *bench, m gpCommand) error {
	plain, err := apdu.ParseCommand(m.Plain)
	if err != nil {
		return err
	}
	w, next, err := s.messaging.Wrap(b.ctx, s.state, plain)
	if err != nil {
		return err
	}
	s.state = next
	w.Ne = 0 // reference programs disagree about Le, which no MAC covers
	got := w.Bytes()
	switch {
	case bytes.Equal(got, m.Wrapped):
		if len(m.Chaining) == 16 && s.messaging.Level != 0 && !bytes.Equal(s.state.Chaining[:], m.Chaining) {
			return mismatch("the MAC chaining value", s.state.Chaining[:], m.Chaining)
		}
	case m.accepts(got):
		s.follow(m)
	default:
		return mismatch("the wrapped command", got, m.Wrapped)
	}
	if len(m.Response) == 0 {
		return nil
	}
	return s.unwrap(b, m.Response, m.ResponsePlain)
}

func (s *session) unwrap(b *bench, response, plain []byte) error {
	r, err := apdu.ParseResponse(response)
	if err != nil {
		return err
	}
	u, err := s.messaging.Unwrap(b.ctx, s.state, r)
	if err != nil {
		return fmt.Errorf("unwrapping: %w", err)
	}
	if got := u.Bytes(); !bytes.Equal(got, plain) {
		return mismatch("the unwrapped response", got, plain)
	}
	return nil
}

// putKey builds PUT KEY for the case's new keys in both formats that exist and
// compares the data fields with what the reference programs sent.
func (c gpCase) putKey(b *bench) error {
	dek, err := b.aes(derive.DataEncryption, c.StaticKeys.DEK)
	if err != nil {
		return err
	}
	var ours [][]byte
	var unable error
	for _, f := range []scp03.PutKeyFormat{scp03.WithLength, scp03.NoLength} {
		if f == scp03.NoLength && len(c.PutKey.NewKeys.ENC)%16 != 0 {
			continue
		}
		data := bytes.Clone(c.PutKey.NewKVN)
		for _, v := range [][]byte{c.PutKey.NewKeys.ENC, c.PutKey.NewKeys.MAC, c.PutKey.NewKeys.DEK} {
			k, err := b.aes(derive.Transport, v)
			if err != nil {
				return err
			}
			block, err := scp03.KeyBlock(b.ctx, b.token, dek, k, f)
			if err != nil {
				return err
			}
			data = append(data, block...)
		}
		ours = append(ours, data)
	}
	for _, peer := range c.PutKey.ByPeer {
		cmd, err := apdu.ParseCommand(peer.Plain)
		if err != nil {
			continue
		}
		for _, data := range ours {
			if bytes.Equal(cmd.Data, data) {
				return nil
			}
		}
		unable = errors.New("no reference program sent these key blocks")
	}
	return unable
}
