package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
)

type recordedCase struct {
	StaticKeys    gpKeys `json:"static_keys"`
	HostChallenge octets `json:"host_challenge"`
	SecurityLevel octets `json:"security_level"`
	Keys          struct {
		stated
		sessionKeys
	} `json:"session_keys"`
	Transcript []struct {
		Step          string `json:"step"`
		Command       octets `json:"command"`
		Response      octets `json:"response"`
		PlainCommand  octets `json:"plain_command"`
		PlainResponse octets `json:"plain_response"`
	} `json:"transcript"`
}

// runRecorded replays a recorded session of a real card.
func runRecorded(ctx context.Context, t derive.VectorToken, raw json.RawMessage) error {
	var c recordedCase
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	if len(c.Transcript) < 2 || len(c.SecurityLevel) != 1 {
		return errors.New("the case is not a transcript of a session")
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	answer, err := apdu.ParseResponse(c.Transcript[0].Response)
	if err != nil {
		return err
	}
	if err := equalInitializeUpdate(c.Transcript[0].Command, c.HostChallenge); err != nil {
		return err
	}
	s, cmd, err := b.authenticate(c.StaticKeys, c.HostChallenge, answer, c.SecurityLevel[0], nil)
	if err != nil {
		return err
	}
	if err := c.Keys.stated.check(s, cmd); err != nil {
		return err
	}
	if err := c.Keys.sessionKeys.check(b, s); err != nil {
		return err
	}
	if got := cmd.Bytes(); !bytes.Equal(got, c.Transcript[1].Command) {
		return mismatch("EXTERNAL AUTHENTICATE", got, c.Transcript[1].Command)
	}
	if err := equalStated("the answer to EXTERNAL AUTHENTICATE", []byte{0x90, 0x00}, c.Transcript[1].Response); err != nil {
		return err
	}
	for _, step := range c.Transcript[2:] {
		m := gpCommand{Plain: step.PlainCommand, Wrapped: step.Command, Response: step.Response, ResponsePlain: step.PlainResponse}
		if err := s.exchange(b, m); err != nil {
			return fmt.Errorf("%s: %w", step.Step, err)
		}
	}
	return nil
}
