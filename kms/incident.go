package kms

import (
	"context"

	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// Radius is what hangs on a key version: what an officer asks first when it may be
// compromised.
type Radius struct {
	Version  key.Version
	Cards    int64 // that last proved it
	Channels int   // open on this node
	Packages int64 // open ones whose keys follow from it
	// Next proposes the number of the version that replaces it.
	Next int
}

// BlastRadius answers what hangs on a key version.
func (s *Service) BlastRadius(ctx context.Context, r Request, issuer, name string, version int) (out Radius, err error) {
	id := key.ID{Issuer: issuer, Name: name, Version: version}
	if err := s.read(ctx, r, KeyRead, issuer, id.String()); err != nil {
		return out, err
	}
	var f fleet
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err := allVersions(tx, issuer)
		if err != nil {
			return err
		}
		for _, v := range all {
			if v.ID == id {
				out.Version = v
			}
			if v.ID.Name == name {
				out.Next = max(out.Next, v.ID.Version+1)
			}
		}
		if out.Version.ID != id {
			return fault.New(fault.NotFound, "no such key version")
		}
		if _, err := get(tx, fleetRef(issuer, name), &f); err != nil {
			return err
		}
		out.Packages, err = openPackages(tx, id)
		return err
	})
	out.Cards, out.Channels = f.Cards[version], s.channelsOn(id)
	return out, err
}

// openPackages counts the packages of a version that no card has confirmed.
func openPackages(tx store.Rows, id key.ID) (n int64, err error) {
	for after := ""; ; {
		var some []Package
		if some, after, err = page[Package](tx, kindPackage, id.Issuer, after, 500); err != nil {
			return n, err
		}
		for _, p := range some {
			if p.State == PackageOpen && p.Key == id.String() {
				n++
			}
		}
		if after == "" {
			return n, nil
		}
	}
}

func (s *Service) channelsOn(id key.ID) (n int) {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	for _, o := range s.channels.byID {
		if !o.mu.TryLock() {
			continue // a request holds it, and finds out about the version by itself
		}
		if o.version == id.String() {
			n++
		}
		o.mu.Unlock()
	}
	return n
}
