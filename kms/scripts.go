package kms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// ScriptInput is a list of APDUs for one channel.
type ScriptInput struct {
	Issuer, Channel string
	APDUs           [][]byte
}

// ScriptMax bounds the APDUs of one request.
const ScriptMax = 1024

// Wrap secures a script of plain C-APDUs, all of it or nothing.
func (s *Service) Wrap(ctx context.Context, r Request, in ScriptInput) ([][]byte, error) {
	return s.onChannel(ctx, r, ChannelWrap, in, func(o *openChannel) ([][]byte, error) {
		script := make([]apdu.Command, len(in.APDUs))
		for i, b := range in.APDUs {
			c, err := apdu.ParseCommand(b)
			if err != nil {
				return nil, err
			}
			script[i] = c
		}
		wrapped, err := o.wrap(ctx, script, s.cfg.Now())
		return encode(wrapped), err
	})
}

// Unwrap checks and decrypts R-APDUs, in the order of their commands. One that
// does not verify ends the channel.
func (s *Service) Unwrap(ctx context.Context, r Request, in ScriptInput) ([][]byte, error) {
	return s.onChannel(ctx, r, ChannelUnwrap, in, func(o *openChannel) ([][]byte, error) {
		responses := make([]apdu.Response, len(in.APDUs))
		for i, b := range in.APDUs {
			r, err := apdu.ParseResponse(b)
			if err != nil {
				return nil, err
			}
			responses[i] = r
		}
		plain, err := o.unwrap(ctx, responses, s.cfg.Now())
		return encode(plain), err
	})
}

// encode turns commands or responses into bytes.
func encode[T interface{ Bytes() []byte }](in []T) [][]byte {
	out := make([][]byte, len(in))
	for i, a := range in {
		out[i] = a.Bytes()
	}
	return out
}

// onChannel runs one request on a channel: check, act, log, answer. If the log
// refuses after the channel moved on, the answer is lost and the channel ends.
func (s *Service) onChannel(ctx context.Context, r Request, op Operation, in ScriptInput, act func(*openChannel) ([][]byte, error)) ([][]byte, error) {
	e, err := s.start(ctx, r, op, in.Issuer, "channels/"+in.Channel)
	if err != nil {
		return nil, err
	}
	if len(in.APDUs) == 0 || len(in.APDUs) > ScriptMax {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("a script has 1 to %d APDUs", ScriptMax))
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return nil, err
	}
	defer o.mu.Unlock()
	o.describe(&e)
	e.detail = map[string]string{}
	return s.once(ctx, o, e, requestDigest(op, in.APDUs), func() ([][]byte, error) { return act(o) })
}

// describe says in an event which card and keys a channel serves.
func (o *openChannel) describe(e *event) {
	e.card, e.alias, e.key, e.algorithm = o.ch.Card().KDD, o.alias, o.version, o.algorithm
}

// once answers a request on a channel that the caller holds: the same again for a
// repetition, else act, log, answer. digest identifies the request; the entry
// gets the digest and the number of the APDUs that leave.
func (s *Service) once(ctx context.Context, o *openChannel, e event, digest [sha256.Size]byte, act func() ([][]byte, error)) ([][]byte, error) {
	if err := s.serving(ctx, o, key.Protect); err != nil {
		return nil, s.refuse(ctx, e, err)
	}
	if answer, err := o.last.repeat(e.req.Idempotency, digest); answer != nil || err != nil {
		return answer, err
	}
	out, err := act()
	if err != nil {
		return nil, s.failed(ctx, o, e, err)
	}
	e.digest, e.detail["apdus"] = digestOf(out...), fmt.Sprint(len(out))
	if err := s.log(ctx, &e, o.taking(&e, s.cfg.Now().UTC())); err != nil {
		s.end(o)
		return nil, err
	}
	o.taken = true
	o.last = replayed{idempotency: e.req.Idempotency, digest: digest, answer: out}
	return out, nil
}

// failed ends a channel that is closed already, or that may have moved on without its
// answer because the token or the store failed, and logs what is worth an entry: a
// failed proof and everything but malformed input.
func (s *Service) failed(ctx context.Context, o *openChannel, e event, why error) error {
	switch fault.CodeOf(why) {
	case fault.InvalidInput, fault.TooLarge, fault.ChannelState:
		return why
	case fault.ProofFailed, fault.ChannelClosed, fault.TokenUnavailable, fault.AuditUnavailable, fault.AuditFull, fault.ClockUnsafe, fault.Internal:
		s.end(o)
	}
	return s.refuse(ctx, e, why)
}

func requestDigest(op Operation, parts [][]byte) [32]byte {
	return digestOf(append([][]byte{[]byte(op)}, parts...)...)
}

// repeat returns the last answer for the same request under the same
// Idempotency-Key, and refuses another request under it.
func (l replayed) repeat(idempotency string, digest [sha256.Size]byte) ([][]byte, error) {
	if idempotency == "" || idempotency != l.idempotency {
		return nil, nil
	}
	if !bytes.Equal(digest[:], l.digest[:]) {
		return nil, fault.New(fault.IdempotencyMismatch, "this Idempotency-Key belongs to another request")
	}
	return l.answer, nil
}

// CloseChannel ends a channel. One of SCP02 that encrypts commands was aborted if the
// answers to them were not unwrapped before, or the card refused one.
func (s *Service) CloseChannel(ctx context.Context, r Request, issuer, id string) error {
	e, err := s.start(ctx, r, ChannelClose, issuer, "channels/"+id)
	if err != nil {
		return err
	}
	o, err := s.lock(r, issuer, id)
	if err != nil {
		return err
	}
	defer o.mu.Unlock()
	o.describe(&e)
	inOrder := o.ending()
	s.end(o)
	return s.log(ctx, &e, inOrder)
}
