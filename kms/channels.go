package kms

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms/apdu"
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
