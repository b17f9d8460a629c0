package kms

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// haltObject is the resource name of what system.resume resumes.
const haltObject = "system/halt"

var haltRef = store.Ref{Kind: kindSystem, ID: "halt"}

// Halt says whether all use of keys is stopped.
type Halt struct {
	Halted bool      `json:"halted"`
	By     string    `json:"by,omitempty"` // identity of who stopped it
	Since  time.Time `json:"since,omitzero"`
}

// haltable are the operations that use keys of cards. Closing a channel ends use,
// and officers and auditors must be able to work.
var haltable = map[Operation]bool{
	ChannelOpen: true, ChannelAuthenticate: true, ChannelWrap: true, ChannelUnwrap: true,
	PackageCreate: true, PackageScript: true, PackageChunks: true, PackageConfirm: true,
	KeysChange: true, KeysConfirm: true, KeysRetire: true,
	ScriptPrepare: true, EMVVerify: true, EMVAnswer: true, EMVScriptOp: true,
	OTAPacketOp: true, OTAVerify: true,
}

// haltCache keeps the state for a moment, because every request needs it.
type haltCache struct {
	mu     sync.Mutex
	at     time.Time
	halted bool
	epoch  int // rises with forget, so that an older reading is not kept
}

// halted returns fault.Halted while the service is halted. What this process did
// shows at once, what another one did within cacheFor.
func (s *Service) halted(ctx context.Context) error {
	halted, err := s.readHalt(ctx)
	if err == nil && halted {
		err = fault.New(fault.Halted, "use of keys is stopped until officers resume it (system.resume)")
	}
	return err
}

// Halted reports whether use of keys is stopped, as far as anybody knew a moment ago.
func (s *Service) Halted(ctx context.Context) (bool, error) { return s.readHalt(ctx) }

func (s *Service) readHalt(ctx context.Context) (bool, error) {
	now := s.cfg.Now()
	s.halt.mu.Lock()
	age, halted, epoch := now.Sub(s.halt.at), s.halt.halted, s.halt.epoch
	s.halt.mu.Unlock()
	if age >= 0 && age < cacheFor {
		return halted, nil
	}
	var h Halt
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err := get(tx, haltRef, &h)
		return err
	})
	if err != nil {
		return false, err
	}
	s.halt.mu.Lock()
	defer s.halt.mu.Unlock()
	if s.halt.epoch == epoch {
		s.halt.at, s.halt.halted = now, h.Halted
	}
	return h.Halted, nil
}

// forget has the next request read the row.
func (c *haltCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.epoch = time.Time{}, c.epoch+1
}

// Halt stops all use of keys of cards, by one officer or operator and for every
// issuer. Only an approved proposal of system.resume ends it. Halting what is
// halted changes nothing, so that nobody makes a proposal to resume void by it.
func (s *Service) Halt(ctx context.Context, r Request) error {
	e, err := s.start(ctx, r, SystemHalt, "", haltObject)
	if err != nil {
		return err
	}
	// Also after an error: a commit whose answer was lost is a halt too.
	defer s.halt.forget()
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var h Halt
		n, err := get(tx, haltRef, &h)
		if err != nil || h.Halted {
			return err
		}
		return put(tx, haltRef, n, Halt{Halted: true, By: r.Caller.ID, Since: s.cfg.Now().UTC()})
	})
	if err == nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "halt: use of keys is stopped", slog.String("by", r.Caller.ID))
	}
	return err
}
