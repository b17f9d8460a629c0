package kms

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"time"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// A rotation reaches a card in steps, each of which may be the last one before a
// cut of power; after every step the service knows keys that reach the card:
//
//	ChangeKeys    PUT KEY adds the new keys beside the old ones  old keys reach it, perhaps new ones too
//	ConfirmKeys   the card's check values are compared           both do
//	Authenticate  the card proves the new keys                   both do; the card counts as moved
//	RetireKeys    DELETE [key] takes the old keys away           the new ones do
//
// The card's row remembers the step. A card whose answer was lost is asked for the
// new keys first, and for the old ones if it does not know those.

// MoveState is how far a card has come.
type MoveState string

// The states of a move. A card without one is where it belongs.
const (
	MoveSent   MoveState = "sent"   // PUT KEY was made; whether the card took it is not known
	MoveStored MoveState = "stored" // the card answered with the right check values
	MoveWrong  MoveState = "wrong"  // it answered with others, and is in quarantine
)

// Move is a card on its way to a newer version.
type Move struct {
	To       string    `json:"to"` // resource name
	KVN      byte      `json:"kvn"`
	State    MoveState `json:"state"`
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at"`
}

// ChangedKeys is a command that gives a card new keys.
type ChangedKeys struct {
	Command  []byte // secured PUT KEY
	From, To string // resource names
	KVN      byte   // of the new keys
}

// ChangeKeys returns the PUT KEY that adds the newest active version's keys to the
// card of an authenticated channel. The card's row says so before the command
// leaves.
func (s *Service) ChangeKeys(ctx context.Context, r Request, issuer, id string) (out ChangedKeys, err error) {
	e, o, err := s.onCard(ctx, r, KeysChange, issuer, id)
	if err != nil {
		return out, err
	}
	defer o.mu.Unlock()
	if err := s.serving(ctx, o, key.Move); err != nil {
		return out, s.refuse(ctx, e, err)
	}
	from, to, err := s.moveOf(ctx, o)
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	cmd, err := s.putKey(ctx, o, from, to)
	if err != nil {
		return out, s.failed(ctx, o, e, err)
	}
	out = ChangedKeys{Command: cmd, From: from.ID.String(), To: to.ID.String(), KVN: to.KVN}
	e.digest, e.detail = digestOf(cmd), map[string]string{"to": out.To, "kvn": fmt.Sprintf("%02X", to.KVN)}
	err = s.log(ctx, &e, onRow(o.card, func(c *Card, _ store.Rows) error {
		if c.proven(to.ID.Name) >= to.ID.Version {
			return fault.New(fault.Conflict, "the card has proved the newest active version")
		}
		attempts := 1
		if c.Move != nil && c.Move.To == out.To {
			attempts += c.Move.Attempts
		}
		c.Move = &Move{To: out.To, KVN: to.KVN, State: MoveSent, Attempts: attempts, At: s.cfg.Now().UTC()}
		return o.take(c, s.cfg.Now().UTC())
	}))
	if err != nil {
		s.end(o) // the channel counted a command that nobody gets
		return ChangedKeys{}, err
	}
	o.changing, o.taken = true, true
	return out, nil
}

// onCard begins an operation on the card of an authenticated channel, and returns
// the channel locked.
func (s *Service) onCard(ctx context.Context, r Request, op Operation, issuer, id string) (e event, o *openChannel, err error) {
	if e, err = s.start(ctx, r, op, issuer, "channels/"+id); err != nil {
		return e, nil, err
	}
	if o, err = s.lock(r, issuer, id); err != nil {
		return e, nil, s.refuse(ctx, e, err)
	}
	o.describe(&e)
	if o.profile.Agreed() {
		o.mu.Unlock()
		return e, nil, s.refuse(ctx, e, errAgreed)
	}
	if !o.ch.Authenticated() || o.ch.Level()&scp03.RMAC == 0 {
		o.mu.Unlock()
		return e, nil, s.refuse(ctx, e, fault.New(fault.ChannelState, "this needs an authenticated channel that protects responses (level 11, 13 or 33)"))
	}
	return e, o, nil
}

// onRow returns a row change of one card, which must be there.
func onRow(ref store.Ref, change func(*Card, store.Rows) error) func(store.Rows) error {
	return func(tx store.Rows) error {
		var c Card
		n, err := need(tx, ref, &c)
		if err != nil {
			return err
		}
		if err := change(&c, tx); err != nil {
			return err
		}
		c.Nonce = newID()
		return put(tx, ref, n, c)
	}
}

// moveOf returns the version that a channel's card has and the one that it should
// have: the newest that protects.
func (s *Service) moveOf(ctx context.Context, o *openChannel) (from, to key.Version, err error) {
	all, err := s.versions(ctx, o.issuer)
	if err != nil {
		return from, to, err
	}
	now := s.cfg.Now()
	for _, v := range all {
		if v.ID.String() == o.version {
			from = v
		}
		if v.ID.Name == o.key && v.Usage == o.profile.Usage() && serves(v, key.Protect, now) == nil && v.ID.Version > to.ID.Version {
			to = v
		}
	}
	switch {
	case from.ID.Version == 0:
		return from, to, fault.New(fault.KeyState, "the key version is no longer known")
	case to.ID.Version <= from.ID.Version:
		return from, to, fault.New(fault.Conflict, "the card has the newest active version")
	case from.CardAlgorithm.Size() < to.CardAlgorithm.Size():
		// [AmdD], Section 3: a key is never sent under a weaker one.
		return from, to, fault.New(fault.KeyState, "the card's data encryption key is weaker than the keys it would carry")
	case from.Token != to.Token:
		return from, to, fault.New(fault.TokenUnable, "the new keys are in another token than the card's, and no key leaves its token, not even wrapped")
	case diversify.Method(to.Diversification) == diversify.None || diversify.Method(from.Diversification) == diversify.None:
		return from, to, fault.New(fault.TokenUnable, "keys that are not derived for each card cannot leave the token, not even wrapped")
	}
	return from, to, o.profile.Agrees(to)
}

// newKeys refers to the three keys of a version for one card, on their way to it.
func newKeys(v key.Version, kdd []byte) (keys [3]*derive.Key, err error) {
	for i, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		if keys[i], err = cardkey.Of(v, kdd, diversify.Target{Purpose: p, Class: derive.Transport}); err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// putKey makes the secured command: 80 D8 00 81, new KVN | three key blocks
// ([AmdD], Section 7.2; P1 00 adds a key set, P2 81 says several keys from
// identifier 01 on). New keys are derived and wrapped inside the token.
func (s *Service) putKey(ctx context.Context, o *openChannel, from, to key.Version) ([]byte, error) {
	keys, err := newKeys(to, o.ch.Card().KDD)
	if err != nil {
		return nil, err
	}
	blocks, err := s.keyBlocks(ctx, o, from, keys)
	if err != nil {
		return nil, err
	}
	data := append([]byte{to.KVN}, blocks...)
	cmd := apdu.Command{CLA: 0x80, INS: insPutKey, P1: 0x00, P2: 0x81, Data: data}
	wrapped, err := o.wrap(ctx, []apdu.Command{cmd}, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	return wrapped[0].Bytes(), nil
}

// keyBlocks returns three key blocks, under the card's K-DEK or, in a session of SCP02,
// under that of the session.
func (s *Service) keyBlocks(ctx context.Context, o *openChannel, from key.Version, keys [3]*derive.Key) (out []byte, err error) {
	dek, err := cardkey.Of(from, o.ch.Card().KDD, diversify.Target{Purpose: diversify.DEK, Class: derive.DataEncryption})
	if err != nil {
		return nil, err
	}
	defer s.cfg.Token.Release(dek)
	for _, k := range keys {
		var block []byte
		if o.profile.Legacy() {
			block, err = o.ch.KeyBlock(ctx, s.cfg.Token, k)
		} else {
			block, err = scp03.KeyBlock(ctx, s.cfg.Token, dek, k, o.profile.PutKey)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
	}
	return out, nil
}

const (
	insPutKey    = 0xD8
	insDeleteKey = 0xE4
)

// ConfirmKeys takes the card's answer to PUT KEY and compares its check values. A
// card that answers with others has keys that nobody knows, and goes into
// quarantine. Only proof of the new keys makes it a moved card.
func (s *Service) ConfirmKeys(ctx context.Context, r Request, issuer, id string, response []byte) (c Card, err error) {
	e, o, err := s.onCard(ctx, r, KeysConfirm, issuer, id)
	if err != nil {
		return c, err
	}
	defer o.mu.Unlock()
	if !o.changing { // the answer to another command could have the form of this one's
		return c, s.refuse(ctx, e, errNotMoving)
	}
	answer, err := s.protected(ctx, o, apdu.Command{CLA: 0x80, INS: insPutKey, P2: 0x81}, response)
	if err != nil {
		return c, s.failed(ctx, o, e, err)
	}
	to, err := s.movingTo(ctx, o.card)
	if err != nil {
		return c, s.failed(ctx, o, e, err)
	}
	right, err := s.rightKCVs(ctx, to, e.card, answer)
	if err != nil {
		return c, s.failed(ctx, o, e, err)
	}
	if !right {
		e.outcome = fault.Proof()
	}
	e.detail = map[string]string{"to": to.ID.String()}
	var booked Card
	err = s.log(ctx, &e, onRow(o.card, func(row *Card, _ store.Rows) error {
		if row.Move == nil || row.Move.To != to.ID.String() {
			return errNotMoving
		}
		move := *row.Move
		if move.State, move.At = MoveStored, s.cfg.Now().UTC(); !right {
			e.quarantined = !row.Quarantined
			move.State, row.Quarantined = MoveWrong, true
		}
		row.Move = &move
		booked = *row
		return nil
	}))
	if !right || err != nil { // the card's answer is used up, and nobody has ours
		s.end(o)
	}
	if err != nil {
		return c, err
	}
	o.changing = false
	return booked, nil
}

var errNotMoving = fault.New(fault.Conflict, "no PUT KEY was made for the card, or another one since")

// movingTo returns the version that a card was sent.
func (s *Service) movingTo(ctx context.Context, ref store.Ref) (key.Version, error) {
	var c Card
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, ref, &c); return err })
	if err != nil {
		return key.Version{}, err
	}
	if c.Move == nil {
		return key.Version{}, errNotMoving
	}
	all, err := s.versions(ctx, ref.Issuer)
	if err != nil {
		return key.Version{}, err
	}
	for _, v := range all {
		if v.ID.String() == c.Move.To {
			return v, nil
		}
	}
	return key.Version{}, errNotMoving
}

// rightKCVs compares new KVN | KCV KCV KCV, or the KVN alone from cards that
// answer no more ([GPCS], Section 11.8.3), with the check values that the token
// computes.
func (s *Service) rightKCVs(ctx context.Context, to key.Version, kdd, answer []byte) (bool, error) {
	if len(answer) == 1 {
		return answer[0] == to.KVN, nil
	}
	want := []byte{to.KVN}
	keys, err := newKeys(to, kdd)
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		kcv, err := s.cfg.Token.KCV(ctx, k)
		if err != nil {
			return false, err
		}
		b, err := hex.DecodeString(kcv.Value)
		if err != nil {
			return false, fmt.Errorf("kms: a check value is not hexadecimal: %w", err)
		}
		want = append(want, b...)
	}
	return subtle.ConstantTimeCompare(want, answer) == 1, nil
}

// RetireKeys returns the DELETE [key] that takes a card's former keys away, on a
// channel that the new ones opened: 80 E4 00 00, D2 01 KVN ([GPCS], Section
// 11.2). The answer goes through Unwrap; a card that keeps the old keys is only
// less tidy.
func (s *Service) RetireKeys(ctx context.Context, r Request, issuer, id string, kvn byte) ([]byte, error) {
	e, o, err := s.onCard(ctx, r, KeysRetire, issuer, id)
	if err != nil {
		return nil, err
	}
	defer o.mu.Unlock()
	if err := s.serving(ctx, o, key.Protect); err != nil {
		return nil, s.refuse(ctx, e, err)
	}
	if err := s.former(ctx, o, kvn); err != nil {
		return nil, s.refuse(ctx, e, err)
	}
	cmd := apdu.Command{CLA: 0x80, INS: insDeleteKey, Data: []byte{0xD2, 0x01, kvn}}
	wrapped, err := o.wrap(ctx, []apdu.Command{cmd}, s.cfg.Now())
	if err != nil {
		return nil, s.failed(ctx, o, e, err)
	}
	out := bytes.Clone(wrapped[0].Bytes())
	e.digest, e.detail = digestOf(out), map[string]string{"kvn": fmt.Sprintf("%02X", kvn)}
	if err := s.log(ctx, &e, o.taking(&e, s.cfg.Now().UTC())); err != nil {
		s.end(o)
		return nil, err
	}
	o.taken = true
	return out, nil
}

// former checks that a KVN is of an older version of the channel's key than the one
// that the channel stands on: no other keys of the card are deleted for those.
func (s *Service) former(ctx context.Context, o *openChannel, kvn byte) error {
	all, err := s.versions(ctx, o.issuer)
	if err != nil {
		return err
	}
	at, err := key.ParseID(o.version)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.ID.Name == at.Name && v.KVN == kvn && v.ID.Version < at.Version {
			return nil
		}
	}
	return fault.New(fault.Conflict, "no older version of the channel's key has this KVN")
}

// proven returns the newest version of a key that proved the card, 0 for none.
func (c *Card) proven(name string) int {
	if had, err := key.ParseID(c.Version); err == nil && had.Name == name {
		return had.Version
	}
	return c.Proven[name]
}

// settle books which version a card proved: the newest one of a key that it ever proved
// counts, and a move that this proof completes is over. A card of SCP11 proves no version.
func (c *Card) settle(tx store.Rows, t attempt, now time.Time) error {
	if t.agreed {
		return nil
	}
	proven, kvn := t.version, t.answer.KVN
	to, err := key.ParseID(proven)
	if err != nil {
		return err
	}
	from := c.proven(to.Name)
	if c.Move != nil && c.Move.To == proven {
		c.Move = nil
	}
	if to.Version < from {
		return nil
	}
	if had, err := key.ParseID(c.Version); err == nil && had.Name != to.Name {
		c.Proven = with(c.Proven, had.Name, had.Version)
		delete(c.Proven, to.Name)
	}
	if c.Version, c.Newest = proven, kvn; to.Version == from {
		return nil
	}
	return countCard(tx, c.Issuer, to.Name, from, to.Version, now)
}
