package kms

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/report"
)

// HotFor is how long the content of entries stays in the database at least
// ([PCI DSS] v4.0, 10.5.1: three months at once, twelve in all).
const HotFor = 92 * 24 * time.Hour

// console is the event of an operation by somebody at the machine.
func console(op Operation, object, by string) event {
	return event{
		req: Request{Caller: Caller{ID: audit.ActorService, Role: "console"}, Origin: audit.OriginConsole},
		op:  op, object: object, detail: map[string]string{"by": by},
	}
}

// Prune removes the content of entries that a sealed segment holds and that are
// older than HotFor, and returns the first sequence that stays. sealed is the
// checkpoint of the segment, which the caller verified with every entry up to it.
// The hashes stay, so that every proof still works.
func (s *Service) Prune(ctx context.Context, by string, sealed audit.Checkpoint) (first int64, err error) {
	if err := s.cfg.Log.Covers(ctx, sealed); err != nil {
		return 0, err
	}
	h := report.Head{Entries: s.cfg.Log.Size(), From: s.cfg.Now().Add(-HotFor)}
	young, err := s.firstSince(ctx, h)
	if err != nil {
		return 0, err
	}
	first = min(young, sealed.Size) &^ 0xFF
	if first <= s.cfg.Log.First() {
		return s.cfg.Log.First(), fault.New(fault.Conflict, "the segment holds nothing that is old enough and still here")
	}
	e := console("log.prune", "audit", by)
	e.detail["first"], e.detail["sealed"] = fmt.Sprint(first), fmt.Sprint(sealed.Size)
	entry, err := s.entry(ctx, e)
	if err != nil {
		return 0, err
	}
	if _, err := s.cfg.Log.Empty(ctx, first, entry); err != nil {
		return 0, err
	}
	return first, s.cfg.Log.Anchored(ctx)
}

// PseudonymLabel reports whether a label in the token may be a pseudonym key's: its
// name says so, and it is no key version's.
func PseudonymLabel(label string) bool {
	return strings.Contains(label, "pseudonym") && !strings.Contains(label, "/")
}

// DestroyPseudonyms destroys a key that named cards in the log before the one that
// does now. After that nobody can say which card an entry of its time is about;
// every proof stays what it was. The intent is durable before the key is gone.
func (s *Service) DestroyPseudonyms(ctx context.Context, by, label string, destroy func(context.Context, string) error) error {
	if label == s.cfg.Pseudonym.Root().Label {
		return fault.New(fault.Conflict, "this key names cards now; configure another one first")
	}
	if !PseudonymLabel(label) || slices.Contains(s.cfg.ServiceKeys[""], label) {
		return fault.New(fault.Forbidden, "this is no pseudonym key; key versions are destroyed by officers only (key.destroy)")
	}
	e := console("pseudonym.destroy", printable(label), by)
	var err error
	if e.intent, err = s.intend(ctx, e); err != nil {
		return err
	}
	if err := destroy(ctx, label); err != nil {
		return s.refuse(ctx, e, err)
	}
	if err := s.log(ctx, &e, nil); err != nil {
		return err
	}
	return s.cfg.Log.Anchored(ctx)
}
