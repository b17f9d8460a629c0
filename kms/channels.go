package kms

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// openChannel is a channel with what the service knows beside the protocol.
type openChannel struct {
	mu      sync.Mutex // held during a request on this channel
	id      string
	caller  string
	issuer  string
	key     string      // name of the gp-scp03, gp-scp02 or gp-scp11 key; empty under SCP11b
	profile cardProfile // of the moment when it opened
	ch      *channel.Channel
	version string    // resource name of the key version that proved the card, or that proves the host of SCP11a and c
	kdd     []byte    // SCP11: the card's name, by its certificate
	alias   string    // pseudonym of the card, once it is proved
	card    store.Ref // the card's row, once it is proved
	// algorithm is the status of the algorithms behind version.
	algorithm audit.Algorithm
	taken     bool     // SCP02: the counter, see legacy.go
	spoilt    bool     // SCP02: the card refused a command's protection
	packaged  string   // id of the package that this channel opened
	changing  bool     // the last command was PUT KEY
	last      replayed // guards against the repetition of one request
}

// replayed is the last answer on a channel, for a caller whose connection broke.
type replayed struct {
	idempotency string
	digest      [32]byte
	answer      [][]byte
}

// wrap secures commands for the card.
func (o *openChannel) wrap(ctx context.Context, script []apdu.Command, now time.Time) ([]apdu.Command, error) {
	o.changing = false
	return o.ch.Wrap(ctx, script, now)
}

// unwrap checks and decrypts the card's answers.
func (o *openChannel) unwrap(ctx context.Context, responses []apdu.Response, now time.Time) ([]apdu.Response, error) {
	plain, err := o.ch.Unwrap(ctx, responses, now)
	o.spoilt = o.spoilt || slices.ContainsFunc(plain, spoils)
	return plain, err
}

func (o *openChannel) object() string { return "channels/" + o.id }

// channels are the open channels of this process.
type channels struct {
	mu       sync.Mutex
	max      int
	byID     map[string]*openChannel
	byCaller map[string]int
}

func (c *channels) init(max int) {
	c.max, c.byID, c.byCaller = max, map[string]*openChannel{}, map[string]int{}
}

// add keeps a channel. own is the caller's own limit, 0 for none.
func (c *channels) add(o *openChannel, own int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// One caller holds at most half of the places, so that it cannot take them all.
	most := max(1, c.max/2)
	if own > 0 {
		most = min(most, own)
	}
	if len(c.byID) >= c.max || c.byCaller[o.caller] >= most {
		return fault.New(fault.RateLimited, "too many channels are open")
	}
	c.byID[o.id] = o
	c.byCaller[o.caller]++
	return nil
}

// expired takes out the channels whose life ended and returns them. One that a
// request holds is left. The caller closes them without the lock: that waits for
// the token, and everybody waits for the lock.
func (c *channels) expired(now time.Time) (out []*openChannel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.byID {
		if !o.mu.TryLock() {
			continue
		}
		if o.ch.Expired(now) {
			c.removeLocked(o)
			out = append(out, o)
		}
		o.mu.Unlock()
	}
	return out
}

func (c *channels) removeLocked(o *openChannel) {
	if c.byID[o.id] == nil {
		return
	}
	delete(c.byID, o.id)
	if c.byCaller[o.caller]--; c.byCaller[o.caller] <= 0 {
		delete(c.byCaller, o.caller)
	}
}

// Sweep ends the channels whose life time is over, destroys their keys, and logs
// who read the log in the last minute. The program calls it every few seconds.
func (s *Service) Sweep() {
	s.logReadings(s.cfg.Now(), readingsEvery)
	for _, o := range s.channels.expired(s.cfg.Now()) {
		o.mu.Lock()
		o.ch.Close(s.cfg.Token)
		o.mu.Unlock()
	}
}

// ChannelsOpen returns how many channels this process holds.
func (s *Service) ChannelsOpen() int {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return len(s.channels.byID)
}

func (c *channels) remove(o *openChannel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(o)
}

// closeAll waits for the request that holds a channel. It takes one lock at a
// time: a request that ends its channel takes them in the other order.
func (c *channels) closeAll(t derive.Token) {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.byID))
	clear(c.byID)
	clear(c.byCaller)
	c.mu.Unlock()
	for _, o := range all {
		o.mu.Lock()
		o.ch.Close(t)
		o.mu.Unlock()
	}
}

// serving refuses a channel whose key version no longer serves this use, as far as
// anybody knew a second ago. A channel that is not authenticated uses no key yet.
func (s *Service) serving(ctx context.Context, o *openChannel, use key.Use) error {
	if o.version == "" {
		return nil
	}
	id, err := key.ParseID(o.version)
	if err != nil {
		return err
	}
	all, err := s.versions(ctx, o.issuer)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.ID == id {
			return serves(v, use, s.cfg.Now())
		}
	}
	return fault.New(fault.KeyState, "the key version is no longer known")
}

// newChannelID returns an id that no other channel has: 32 hexadecimal digits, after the
// name of the node and a dot where there are several. A load balancer routes by it.
func (s *Service) newChannelID() string {
	if s.cfg.Node == "" {
		return newID()
	}
	return s.cfg.Node + "." + newID()
}

// OpenChannels returns how many channels this process holds.
func (s *Service) OpenChannels() int {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return len(s.channels.byID)
}

// here reports whether a channel of this id, if there is one, lives on this node.
func (s *Service) here(id string) bool {
	node, _, ok := strings.Cut(id, ".")
	return !ok || node == s.cfg.Node
}

// lock returns a caller's own channel, locked. The channel of another caller, one that
// never was, and one that ended, also with its process, answer alike.
func (s *Service) lock(r Request, issuer, id string) (*openChannel, error) {
	s.channels.mu.Lock()
	o := s.channels.byID[id]
	s.channels.mu.Unlock()
	if o == nil && !s.here(id) {
		return nil, fault.New(fault.WrongNode, "the channel lives on the node that its id begins with")
	}
	if o == nil || o.caller != r.Caller.ID || o.issuer != issuer {
		return nil, fault.New(fault.ChannelClosed, "there is no such channel, or it has ended; open a new one")
	}
	o.mu.Lock()
	return o, nil
}

// end closes a channel for good; its caller holds it.
func (s *Service) end(o *openChannel) {
	o.ch.Close(s.cfg.Token)
	s.channels.remove(o)
}

// OpenChannelInput says which card keys to use.
type OpenChannelInput struct {
	Issuer  string
	Key     string // name of a key of the usage that the profile says; empty under scp11b
	KVN     byte   // 00: the card's default, or the first of a profile of SCP11
	Profile string // name of a card profile; empty for "default"
	// Certificates are those of a card of SCP11 in DER, its own first; none of others.
	Certificates [][]byte
}

// OpenedChannel is a channel with what to send to the card.
type OpenedChannel struct {
	ID               string
	InitializeUpdate []byte
	// Agreement, in its place under SCP11, are the host's certificates and then the command
	// whose answer counts, and KDD the card's name by its certificate.
	Agreement [][]byte
	KDD       []byte
	ExpiresAt time.Time // for the card's answer
}

// OpenChannel starts a channel with a host challenge of the token, or with a pair that it
// makes.
func (s *Service) OpenChannel(ctx context.Context, r Request, in OpenChannelInput) (out OpenedChannel, err error) {
	object := "keys/" + in.Key
	if in.Key == "" { // scp11b
		object = "profiles/" + cmp.Or(in.Profile, defaultProfile)
	}
	e, err := s.start(ctx, r, ChannelOpen, in.Issuer, object)
	if err != nil {
		return out, err
	}
	if in.Key == "" && len(in.Certificates) == 0 {
		return out, fault.New(fault.InvalidInput, "a channel needs a key, or the certificates of a card of SCP11b")
	}
	p, err := s.profile(ctx, in.Issuer, in.Profile)
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	if p.Legacy() {
		e.algorithm = audit.Legacy // which key it will be, the card says
	}
	o, commands, err := s.opening(ctx, r, in, p)
	if o != nil {
		e.card = o.kdd
	}
	if err != nil {
		return out, s.refuse(ctx, e, err)
	}
	// In INITIALIZE UPDATE and in the command of SCP11, P1 is the Key Version Number.
	e.object, e.key, e.detail = o.object(), o.version, map[string]string{"kvn": fmt.Sprintf("%02X", commands[len(commands)-1].P1)}
	p.named(e.detail)
	e.digest = p.digest
	if err := s.channels.add(o, r.Caller.ChannelsMax); err != nil {
		o.ch.Close(s.cfg.Token)
		return out, s.refuse(ctx, e, err)
	}
	if err := s.log(ctx, &e, nil); err != nil {
		o.mu.Lock() // the process may be closing all channels
		s.end(o)
		o.mu.Unlock()
		return out, err
	}
	out = OpenedChannel{ID: o.id, KDD: o.kdd, ExpiresAt: s.cfg.Now().Add(s.cfg.Limits.AnswerWithin)}
	if p.Agreed() {
		out.Agreement = encode(commands)
	} else {
		out.InitializeUpdate = commands[0].Bytes()
	}
	return out, nil
}

// opening makes a channel of the profile's protocol, and the commands for the card. Of a card
// that is known when it is refused, the channel says which.
func (s *Service) opening(ctx context.Context, r Request, in OpenChannelInput, p cardProfile) (*openChannel, []apdu.Command, error) {
	switch {
	case p.Agreed():
		return s.newChannelSCP11(ctx, r, in, p)
	case len(in.Certificates) > 0:
		return nil, nil, fault.New(fault.InvalidInput, "certificates are of cards of SCP11, and the card profile says another protocol")
	}
	o, cmd, err := s.newChannel(ctx, r, in, p)
	return o, []apdu.Command{cmd}, err
}

func (s *Service) newChannel(ctx context.Context, r Request, in OpenChannelInput, p cardProfile) (*openChannel, apdu.Command, error) {
	if p.Implicit() {
		return nil, apdu.Command{}, fault.New(fault.InvalidInput, "cards of i 1A prove nothing before they obey, so they get prepared scripts and no channel")
	}
	if err := s.opens(ctx, in.Issuer, in.Key, p.Profile); err != nil {
		return nil, apdu.Command{}, err
	}
	if in.KVN != 0 {
		v, err := s.version(ctx, in.Issuer, in.Key, p.Usage(), in.KVN, key.Move)
		if err == nil {
			err = p.Agrees(v)
		}
		if err != nil {
			return nil, apdu.Command{}, err
		}
	}
	challenge, err := s.cfg.Token.Random(ctx, int(p.Mode))
	if err != nil {
		return nil, apdu.Command{}, err
	}
	o := &openChannel{id: s.newChannelID(), caller: r.Caller.ID, issuer: in.Issuer, key: in.Key, profile: p}
	var cmd apdu.Command
	o.ch, cmd = channel.Open(p.Profile.Profile, s.cfg.Limits, in.KVN, challenge, s.cfg.Now())
	return o, cmd, nil
}

// AuthenticateInput is the card's answer to INITIALIZE UPDATE, or to the last command of SCP11.
type AuthenticateInput struct {
	Issuer, Channel string
	Response        []byte       // R-APDU
	Level           *scp03.Level // nil: the profile's
}

// AuthenticatedChannel is a channel whose card is proved.
type AuthenticatedChannel struct {
	ExternalAuthenticate []byte // C-APDU to send to the card; nil under SCP11, whose card waits for none
	KDD                  []byte
	KVN, I               byte
	Counter              *uint32
	Level                scp03.Level
	DataMax              int    // data bytes that one command can carry
	KeyVersion           string // resource name
}

// Authenticate verifies the card and returns EXTERNAL AUTHENTICATE. Three wrong
// card cryptograms or receipts in a row, or as many as the profile says, quarantine the card. Whatever fails ends the channel;
// an unknown Key Version Number and a wrong cryptogram look the same.
func (s *Service) Authenticate(ctx context.Context, r Request, in AuthenticateInput) (out AuthenticatedChannel, err error) {
	e, err := s.start(ctx, r, ChannelAuthenticate, in.Issuer, "channels/"+in.Channel)
	if err != nil {
		return out, err
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return out, err
	}
	defer o.mu.Unlock()
	response, err := apdu.ParseResponse(in.Response)
	if err != nil {
		return out, err // the challenge is not used up by what cannot be an answer
	}
	answer, err := o.ch.Answer(response, s.cfg.Now())
	if e.card, e.key = answer.KDD, o.version; e.card == nil {
		e.card = o.kdd
	}
	if err != nil && fault.CodeOf(err) != fault.ProofFailed {
		if fault.CodeOf(err) != fault.ChannelState {
			s.end(o)
		}
		return out, s.refuse(ctx, e, err)
	}
	wrongKVN := err
	if !r.Caller.Cards.Holds(answer.KDD) {
		s.end(o)
		return out, s.refuse(ctx, e, errRange)
	}
	if wrongKVN != nil {
		s.end(o)
		_, err := s.book(ctx, &e, attempt{answer: answer, most: o.profile.Attempts, err: wrongKVN})
		return out, err
	}
	level := o.profile.Level
	if in.Level != nil {
		level = *in.Level
	}
	cmd, proof := s.prove(ctx, o, answer, level)
	e.key, e.algorithm = o.version, o.algorithm
	e.detail = map[string]string{"kvn": fmt.Sprintf("%02X", answer.KVN), "level": fmt.Sprintf("%02X", byte(level))}
	legacy := o.profile.Legacy()
	counts := legacy || answer.CounterIncluded && len(o.profile.AID) > 0
	if proof == nil {
		s.counterEnds(&e, o, answer.Counter)
	}
	o.card, err = s.book(ctx, &e, attempt{answer: answer, version: o.version, counts: counts, legacy: legacy, agreed: o.profile.Agreed(), most: o.profile.Attempts, err: proof})
	if err != nil {
		s.end(o)
		return out, err
	}
	o.alias = e.alias
	out = AuthenticatedChannel{
		KDD: answer.KDD, KVN: answer.KVN, I: answer.I,
		Level: level, DataMax: o.ch.DataMax(o.profile.Extended), KeyVersion: o.version,
	}
	if !o.profile.Agreed() {
		out.ExternalAuthenticate = cmd.Bytes()
	}
	if answer.CounterIncluded {
		out.Counter = &answer.Counter
	}
	return out, nil
}

var errRange = fault.New(fault.Forbidden, "this card is not in your card range")

// prove finds the card's keys and has the channel verify the card.
func (s *Service) prove(ctx context.Context, o *openChannel, a scp03.Answer, l scp03.Level) (apdu.Command, error) {
	if o.profile.Agreed() {
		return apdu.Command{}, s.proveSCP11(ctx, o, l)
	}
	if err := o.profile.AnsweredBy(a); err != nil {
		return apdu.Command{}, err
	}
	v, err := s.version(ctx, o.issuer, o.key, o.profile.Usage(), a.KVN, key.Move)
	if fault.CodeOf(err) == fault.NotFound {
		return apdu.Command{}, fault.Proof()
	}
	if v.ID.Version > 0 {
		o.version, o.algorithm = v.ID.String(), algorithmOf(v)
	}
	if err == nil {
		err = o.profile.Agrees(v)
	}
	if err != nil {
		return apdu.Command{}, err
	}
	if o.profile.Legacy() {
		return s.proveSCP02(ctx, o, v, a.KDD, l)
	}
	static, err := cardkey.SCP03(v, a.KDD)
	if err != nil {
		return apdu.Command{}, err
	}
	return o.ch.Authenticate(ctx, s.cfg.Token, static, l, s.cfg.Now())
}

// book writes the result of a proof into the card's row, together with its
// entry, and returns the row's name.
func (s *Service) book(ctx context.Context, e *event, t attempt) (store.Ref, error) {
	ref, err := s.cardRef(ctx, e.issuer, t.answer.KDD)
	if err != nil {
		return ref, err
	}
	sealed, err := s.sealCard(ctx, ref, t.answer.KDD)
	if err != nil {
		return ref, err
	}
	now := s.cfg.Now().UTC()
	return ref, s.log(ctx, e, func(tx store.Rows) error {
		c := Card{Issuer: e.issuer, Sealed: sealed}
		n, err := get(tx, ref, &c)
		if err != nil {
			return err
		}
		before := c
		if e.outcome = c.proved(t, now); e.outcome == nil {
			if c.SCP02[t.version].Repeats > 0 {
				e.detail["repeated"] = "true"
			}
			if err := c.settle(tx, t, now); err != nil {
				return err
			}
		}
		e.quarantined = c.Quarantined && !before.Quarantined
		if reflect.DeepEqual(c, before) {
			return nil
		}
		c.Nonce = newID()
		return put(tx, ref, n, c)
	})
}
