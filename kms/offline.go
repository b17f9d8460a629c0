package kms

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// Limits of one request for prepared scripts.
const (
	// PreparedCardsMax is the greatest number of cards.
	PreparedCardsMax = 500
	// PreparedCommandsMax is the greatest number of commands for all of them together.
	PreparedCommandsMax = 4000
	// preparedAtOnce is how many cards are served at the same time, so that their
	// entries share an fsync.
	preparedAtOnce = 8
)

// PrepareInput asks for one script for cards that are not there.
type PrepareInput struct {
	Issuer   string
	Key      string      // name of a gp-scp03 key, or gp-scp02 as the profile says
	KVN      byte        // of the keys that the cards carry
	Profile  string      // name of a card profile with an AID; empty for "default"
	Level    scp03.Level // 01 or 03; under SCP02 01
	Commands [][]byte    // plain C-APDUs
	Cards    []CardAt
}

// CardAt is a card with the sequence counter that it will have when the script runs.
type CardAt struct {
	KDD     [kddBytes]byte
	Counter uint32
}

// Prepared is the script of one card, or why there is none.
type Prepared struct {
	CardAt
	// Commands are INITIALIZE UPDATE, EXTERNAL AUTHENTICATE and the secured commands; those
	// alone for a card of SCP02 with implicit initiation.
	Commands [][]byte
	Err      error
}

// PrepareScripts secures one script for each of some cards that are not there, from
// their key version, sequence counter and AID. No counter serves two scripts, and none
// that a card has proved serves one; a card must be in the registry, so that this is
// known. What the card did with a script, its next authentication says: the counter
// that it proves then is above that of every script which it ran. A card with implicit
// initiation never says it.
//
// Each card has a result of its own, and an entry. If the process dies in between,
// a card whose entry is durable has used its counter for this script. The same request,
// to whichever node, gives it again, byte for byte, until the card proves this counter or a
// higher one, or a script is made for a higher one: see hostChallenge.
func (s *Service) PrepareScripts(ctx context.Context, r Request, in PrepareInput) ([]Prepared, error) {
	e, err := s.start(ctx, r, ScriptPrepare, in.Issuer, "keys/"+printable(in.Key))
	if err != nil {
		return nil, err
	}
	job, err := s.preparation(ctx, in)
	if err != nil {
		return nil, s.refuse(ctx, e, err)
	}
	out := make([]Prepared, len(in.Cards))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(preparedAtOnce, len(in.Cards)) {
		workers.Go(func() {
			for i := range next {
				out[i].CardAt = in.Cards[i]
				if out[i].Commands, out[i].Err = s.prepareOne(ctx, r, e, job, in.Cards[i]); fault.CodeOf(out[i].Err) == fault.Internal {
					s.cfg.Logger.Error("a script was not prepared", "request", r.ID, "error", out[i].Err)
				}
			}
		})
	}
	for i := range in.Cards {
		next <- i
	}
	close(next)
	workers.Wait()
	return out, nil
}

// preparation is what the cards of one request have in common.
type preparation struct {
	PrepareInput
	profile    cardProfile
	version    key.Version
	script     []apdu.Command
	digest     audit.Digest      // of the plain commands
	challenger derive.Challenger // under SCP03
	tdea       derive.TDEAToken  // under SCP02
}

func (s *Service) preparation(ctx context.Context, in PrepareInput) (job preparation, err error) {
	job.PrepareInput = in
	if job.profile, err = s.profile(ctx, in.Issuer, in.Profile); err != nil {
		return job, err
	}
	var able bool
	switch {
	case job.profile.Agreed():
		return job, fault.New(fault.InvalidInput, "no scripts are prepared for cards of SCP11")
	case !job.profile.Legacy():
		if job.challenger, able = s.cfg.Token.(derive.Challenger); !able {
			return job, fault.New(fault.TokenUnable, "the token does not give out card challenges")
		}
	case in.Level != scp03.CMAC:
		return job, fault.New(fault.InvalidInput, "a script for a card of SCP02 that is not there has level 01")
	default:
		if job.tdea, able = s.cfg.Token.(derive.TDEAToken); !able {
			return job, errNoRetail
		}
	}
	if n := len(in.Cards); n < 1 || n > PreparedCardsMax || n*len(in.Commands) > PreparedCommandsMax || len(in.Commands) < 1 {
		return job, fault.New(fault.TooLarge, fmt.Sprintf("a request is for 1 to %d cards, with at most %d commands for all of them together", PreparedCardsMax, PreparedCommandsMax))
	}
	for i, b := range in.Commands {
		c, err := apdu.ParseCommand(b)
		if err != nil {
			return job, fmt.Errorf("command %d: %w", i+1, err)
		}
		job.script = append(job.script, c)
	}
	job.digest = digestOf(in.Commands...)
	if job.version, err = s.version(ctx, in.Issuer, in.Key, job.profile.Usage(), in.KVN, key.Protect); err != nil {
		return job, err
	}
	return job, job.profile.Agrees(job.version)
}

// prepareOne makes the script of one card and its entry.
func (s *Service) prepareOne(ctx context.Context, r Request, e event, job preparation, at CardAt) ([][]byte, error) {
	e.card, e.key, e.algorithm = at.KDD[:], job.version.ID.String(), algorithmOf(job.version)
	e.detail = map[string]string{"counter": fmt.Sprintf("%06X", at.Counter), "level": fmt.Sprintf("%02X", byte(job.Level))}
	job.profile.named(e.detail)
	if !r.Caller.Cards.Holds(at.KDD[:]) {
		return nil, s.refuse(ctx, e, fault.New(fault.Forbidden, "this card is not in your card range"))
	}
	ref, err := s.cardRef(ctx, e.issuer, at.KDD[:])
	if err != nil {
		return nil, err
	}
	out, err := s.offline(ctx, job, at, ref)
	if err != nil {
		return nil, s.refuse(ctx, e, err)
	}
	e.digest, e.detail["apdus"] = digestOf(out...), fmt.Sprint(len(out))
	script := hex.EncodeToString(e.digest[:])
	if at.Counter >= longCounterAlarm || job.profile.Legacy() && at.Counter >= counterAlarm {
		e.detail["ending"] = "true"
		s.cfg.Logger.Warn("the sequence counter of a card nears its end", "key", e.key)
	}
	err = s.settle(ctx, e, onRow(ref, func(c *Card, _ store.Rows) error {
		again, err := c.reserve(e.key, at.Counter, script)
		delete(e.detail, "again") // of a transaction that did not happen
		if again {
			e.detail["again"] = "true"
		}
		return err
	}))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// longCounterAlarm is when the end of a sequence counter, FFFFFF, is near: 80 % of its way.
const longCounterAlarm = scp03.CounterMax / 5 * 4

// reserve books that a script was made for a counter, and reports whether it was made before.
func (c *Card) reserve(version string, counter uint32, script string) (again bool, err error) {
	proved, counted := c.Counters[version]
	made, before := c.Prepared[version]
	again = counter == made && script == c.Scripts[version]
	switch {
	case c.Quarantined:
		return false, fault.New(fault.CardQuarantined, "the card is in quarantine")
	case counted && counter <= proved || before && counter <= made && !again:
		return false, fault.New(fault.CardCounter, "the sequence counter was proved by the card, or served another script")
	}
	c.Prepared, c.Scripts = with(c.Prepared, version, counter), with(c.Scripts, version, script)
	return again, nil
}

// hostChallenge is the host challenge of a script for a card that is not there: the first n
// bytes of
//
//	CMAC(K, "cardkms-offline-host/1" 0A | name of the card's row | counter (4) | level | key version | 0A | SHA-256(profile) | SHA-256(commands))
//
// under Config.Registry, where each plain command stands behind its length and the profile is
// its document. Nobody without the token foresees it. A request that differs in
// anything has another one and so, under SCP03, other session keys; the same request has the
// same, so that an answer that was lost is given again.
func (s *Service) hostChallenge(ctx context.Context, job preparation, at CardAt, ref store.Ref, n int) ([]byte, error) {
	m := binary.BigEndian.AppendUint32([]byte("cardkms-offline-host/1\n"+ref.ID), at.Counter)
	m = append(append(m, byte(job.Level)), job.version.ID.String()+"\n"...)
	m = append(append(m, job.profile.digest[:]...), job.digest[:]...)
	mac, err := s.cfg.Token.MAC(ctx, s.cfg.Registry, m)
	if err != nil {
		return nil, fmt.Errorf("choosing a host challenge: %w", err)
	}
	return mac[:n], nil
}

// offline computes the commands of one card.
func (s *Service) offline(ctx context.Context, job preparation, at CardAt, ref store.Ref) ([][]byte, error) {
	if job.profile.Legacy() {
		return s.offlineSCP02(ctx, job, at, ref)
	}
	static, err := cardkey.SCP03(job.version, at.KDD[:])
	if err != nil {
		return nil, err
	}
	host, err := s.hostChallenge(ctx, job, at, ref, int(job.profile.Mode))
	if err != nil {
		return nil, err
	}
	o := scp03.Offline{
		Keys: static, HostChallenge: host, KVN: job.KVN, Counter: at.Counter, AID: job.profile.AID, Level: job.Level, Options: job.profile.Options,
	}
	session, commands, err := o.Prepare(ctx, s.cfg.Token, job.challenger, job.script)
	s.cfg.Token.Release(static.ENC, static.MAC)
	if session.ENC != nil {
		s.cfg.Token.Release(session.ENC, session.MAC)
	}
	return encode(commands), err
}

// offlineSCP02 is offline under SCP02, whose keys hang on the counter alone: what is
// prepared for one counter and a channel under it have the same ones, and MACs that chain
// from different commands.
func (s *Service) offlineSCP02(ctx context.Context, job preparation, at CardAt, ref store.Ref) ([][]byte, error) {
	if at.Counter > scp02.CounterMax {
		return nil, fault.New(fault.InvalidInput, "a sequence counter of SCP02 has 16 bits")
	}
	static, err := cardkey.SCP02(job.version, at.KDD[:])
	if err != nil {
		return nil, err
	}
	host, err := s.hostChallenge(ctx, job, at, ref, scp02.HostChallengeBytes)
	if err != nil {
		return nil, err
	}
	o := scp02.Offline{Keys: static, HostChallenge: host, KVN: job.KVN, Counter: uint16(at.Counter), AID: job.profile.AID, I: job.profile.SCP02}
	session, commands, err := o.Prepare(ctx, job.tdea, job.script)
	s.cfg.Token.Release(append(session.Keys(), static.ENC, static.MAC, static.DEK)...)
	return encode(commands), err
}
