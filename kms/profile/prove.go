package profile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Prove runs the known answers through a token, by the code that serves cards. Each test
// key is an object of a PKCS#11 session, and gone when Prove returns; nothing that lives
// in the token takes part. used are the check values of keys that a service has: a test
// key with one of them is refused, because it stands in clear in the document.
//
// The first answer that does not come out is a fault.InvalidInput with its name: neither
// what is right nor what the token computed is in the error. One that the token cannot
// compute keeps its own code.
func (p Profile) Prove(ctx context.Context, t derive.VectorToken, used []key.KCV) error {
	for _, a := range p.Answers {
		b := &bench{ctx: ctx, token: t, profile: p, used: used}
		err := b.run(a)
		b.close()
		if err != nil {
			return a.named(err)
		}
	}
	return nil
}

// bench holds the keys of one known answer.
type bench struct {
	ctx     context.Context
	token   derive.VectorToken
	profile Profile
	used    []key.KCV
	master  *derive.Key
	channel *channel.Channel
	cleanup []func()
}

func (b *bench) close() {
	slices.Reverse(b.cleanup) // what is derived goes before what it was derived from
	for _, f := range b.cleanup {
		f()
	}
}

// named says which known answer failed. That a proof failed is the document's fault here.
func (a Answer) named(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return fmt.Errorf("running the known answer %s: %w", a.Name, err)
	}
	code := f.Code
	if code == fault.ProofFailed || code == fault.ProfileMismatch {
		code = fault.InvalidInput
	}
	return fault.Because(code, fmt.Sprintf("the known answer %s: %s", a.Name, f.Detail), f.Err)
}

// another says what does not come out, and nothing else.
func another(what string) error { return fault.New(fault.InvalidInput, what+" is another one") }

func (b *bench) run(a Answer) error {
	if a.Agreement != nil {
		return b.agreement(*a.Agreement)
	}
	if a.CheckValues != nil {
		if err := b.checkValues(a); err != nil {
			return err
		}
	}
	if a.Session != nil {
		if err := b.session(a); err != nil {
			return err
		}
	}
	if a.PutKey != nil {
		return b.putKey(a)
	}
	return nil
}

// add imports a test key.
func (b *bench) add(a key.Algorithm, c derive.Class, value []byte) (*derive.Key, error) {
	k, forget, err := b.token.ImportVolatile(b.ctx, "cardkms-known-answer", a, c, value)
	if err != nil {
		return nil, err
	}
	b.cleanup = append(b.cleanup, forget)
	kcv, err := b.token.KCV(b.ctx, k)
	if err == nil && slices.Contains(b.used, kcv) {
		err = errUsed
	}
	return k, err
}

var errUsed = fault.New(fault.InvalidInput, "a test key has the check value of a key of this service; what stands in clear in a document must serve nobody")

// cardKeys returns K-ENC, K-MAC and K-DEK of the card.
func (b *bench) cardKeys(a Answer, class derive.Class) (keys [3]*derive.Key, err error) {
	for i, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		if keys[i], err = b.card(a, p, class); err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// card returns a key of the card.
func (b *bench) card(a Answer, purpose diversify.Purpose, class derive.Class) (k *derive.Key, err error) {
	if a.Keys != nil {
		return b.add(b.profile.Keys.Algorithm, class, a.Keys[purpose-diversify.ENC])
	}
	if b.master == nil {
		if b.master, err = b.add(a.Master.Algorithm, derive.Static, a.Master.Value); err != nil {
			return nil, err
		}
	}
	k, err = diversify.Card(b.profile.Keys.Diversification, b.master, a.KDD, diversify.Target{Purpose: purpose, Class: class, Algorithm: b.profile.Keys.Algorithm})
	if err == nil {
		b.cleanup = append(b.cleanup, func() { b.token.Release(k) })
	}
	return k, err
}

func (b *bench) checkValues(a Answer) error {
	keys, err := b.cardKeys(a, derive.Static)
	if err != nil {
		return err
	}
	for i, k := range keys {
		kcv, err := b.token.KCV(b.ctx, k)
		if err != nil {
			return err
		}
		if kcv.Value != a.CheckValues[i] {
			return another("a check value")
		}
	}
	return nil
}

// session runs the session of an answer on a channel as cards get it. Its clock stands.
func (b *bench) session(a Answer) error {
	s, now := a.Session, time.Time{}
	b.channel, _ = channel.Open(b.profile.Profile, channel.DefaultLimits(), 0, s.HostChallenge, now)
	b.cleanup = append(b.cleanup, func() { b.channel.Close(b.token) })
	answer, err := b.channel.Answer(apdu.Response{Data: s.Answer, SW: apdu.Success}, now)
	if err == nil {
		err = b.profile.AnsweredBy(answer)
	}
	if err != nil {
		return err
	}
	ext, err := b.authenticate(a)
	if err != nil {
		return err
	}
	if !same(ext, s.ExternalAuthenticate) {
		return another("EXTERNAL AUTHENTICATE")
	}
	return b.commands(s.Commands)
}

// commands secures the commands of a session.
func (b *bench) commands(all []Exchange) error {
	for i, c := range all {
		got, err := b.channel.Wrap(b.ctx, []apdu.Command{c.Plain}, time.Time{})
		if err != nil {
			return err
		}
		if !same(got[0], c.Secured) {
			return another(fmt.Sprintf("command %d", i+1))
		}
	}
	return nil
}

// same compares commands without Le, which no MAC covers and about which programs
// disagree.
func same(a, b apdu.Command) bool {
	a.Ne, b.Ne = 0, 0
	return bytes.Equal(a.Bytes(), b.Bytes())
}

func (b *bench) authenticate(a Answer) (cmd apdu.Command, err error) {
	level, now := b.profile.Level, time.Time{}
	if b.profile.Legacy() {
		keys, err := b.cardKeys(a, derive.StaticCBC)
		if err != nil {
			return cmd, err
		}
		return b.channel.AuthenticateSCP02(b.ctx, b.token, scp02.Static{ENC: keys[0], MAC: keys[1], DEK: keys[2]}, level, now)
	}
	keys, err := b.cardKeys(a, derive.Static)
	if err != nil {
		return cmd, err
	}
	return b.channel.Authenticate(b.ctx, b.token, scp03.Static{ENC: keys[0], MAC: keys[1]}, level, now)
}

// putKey makes the data field of PUT KEY: [AmdD], Section 7.2.
func (b *bench) putKey(a Answer) error {
	data := []byte{a.PutKey.KVN}
	for _, value := range a.PutKey.Keys {
		k, err := b.add(b.profile.Keys.Algorithm, derive.Transport, value)
		if err != nil {
			return err
		}
		block, err := b.block(a, k)
		if err != nil {
			return err
		}
		data = append(data, block...)
	}
	if !bytes.Equal(data, a.PutKey.Data) {
		return another("PUT KEY")
	}
	return nil
}

func (b *bench) block(a Answer, k *derive.Key) ([]byte, error) {
	if b.profile.Legacy() {
		return b.channel.KeyBlock(b.ctx, b.token, k)
	}
	dek, err := b.card(a, diversify.DEK, derive.DataEncryption)
	if err != nil {
		return nil, err
	}
	return scp03.KeyBlock(b.ctx, b.token, dek, k, b.profile.PutKey)
}
