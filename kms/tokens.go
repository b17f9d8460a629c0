package kms

import (
	"context"
	"slices"

	"cardkms/derive"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/report"
)

// A key version names the token that holds it, and what is derived from it stays there.
// The main token, which has no name, also holds the service's own keys: without it there
// is no log and no service. One of the others that fails takes its own keys out of
// service and nothing else.

// Inspector looks into one token for the inventory and for probes of health.
type Inspector interface {
	// Check finds a root and compares what protects it and its check value.
	Check(ctx context.Context, r derive.Root) error
	// Labels returns the labels of all private and secret keys that live in the
	// token, sorted.
	Labels(ctx context.Context) ([]string, error)
	// Description names the token: label, model, serial number.
	Description() string
	// Ready looks that the token is there and answers.
	Ready(ctx context.Context) error
}

// Holder is a token that holds keys.
type Holder interface {
	KeyStore
	Inspector
}

// holder returns a token of the configuration, for what is done to its keys.
func (s *Service) holder(name string) (Holder, error) {
	if name != "" && !slices.Contains(s.cfg.Tokens, name) {
		return nil, fault.New(fault.InvalidInput, "the configuration has no token of this name")
	}
	return s.cfg.Holder(name)
}

// inventory compares the key versions with what the tokens hold. A token that is not
// there leaves the inventory of the others whole; without the main one there is none.
func (s *Service) inventory(ctx context.Context, h report.Head) (*report.InventoryReport, error) {
	out := &report.InventoryReport{Head: h, Keys: []report.Key{}, Ghosts: []string{}, Profiles: []report.Profile{}}
	for _, name := range append([]string{""}, s.cfg.Tokens...) {
		err := s.inventoryOf(ctx, name, out)
		if fault.CodeOf(err) == fault.TokenUnavailable && name != "" {
			err = s.notSeen(ctx, name, out)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, s.inventoryOfProfiles(ctx, out)
}

// notSeen says of a token that it could not be looked at.
func (s *Service) notSeen(ctx context.Context, name string, out *report.InventoryReport) error {
	versions, err := s.AllKeys(ctx)
	out.See(name, "not there")
	for _, v := range versions {
		if v.Token == name {
			out.Keys = append(out.Keys, report.Key{Version: v, Held: report.NotSeen})
		}
	}
	return err
}

// inventoryOf adds one token to an inventory, whole or not at all.
func (s *Service) inventoryOf(ctx context.Context, name string, out *report.InventoryReport) error {
	t, err := s.holder(name)
	if err != nil {
		return err
	}
	versions, err := s.AllKeys(ctx)
	if err != nil {
		return err
	}
	labels, err := t.Labels(ctx)
	if err != nil {
		return err
	}
	var keys []report.Key
	known := slices.Clone(s.cfg.ServiceKeys[name])
	for _, v := range versions {
		if v.Token != name {
			continue
		}
		k := report.Key{Version: v, Held: report.Present}
		for p := range v.KCVs {
			known = append(known, v.ID.Label(p))
			if err := t.Check(ctx, cardkey.Root(v, p)); err != nil {
				if fault.CodeOf(err) == fault.TokenUnavailable {
					return err
				}
				k.Held = report.Missing
			}
		}
		keys = append(keys, k)
	}
	out.See(name, t.Description())
	out.Keys = append(out.Keys, keys...)
	for _, l := range labels {
		if !slices.Contains(known, l) {
			out.AddGhost(name, l)
		}
	}
	return nil
}
