package kms

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/store"
)

// A card profile belongs to an issuer and has versions: 1, 2, 3 and so on, each a document
// that officers signed, by proposal or in a ceremony's file. The newest one serves; a
// channel that is open keeps the one that it opened with. What was signed stays readable.

// ProfileLoad is a ceremony's registration of a profile, at the console only.
const ProfileLoad Operation = "profile.load"

// CardProfile is one version of a card profile.
type CardProfile struct {
	Issuer     string    `json:"issuer"`
	Name       string    `json:"name"`
	Version    int       `json:"version"`
	Document   string    `json:"document"` // YAML, see package profile
	Registered time.Time `json:"registered"`
	// Withdrawn: officers took the profile out of use, until they register a newer version.
	Withdrawn bool `json:"withdrawn,omitempty"`
	// Ceremony is the SHA-256 of the file of the ceremony that registered it, in hex;
	// empty for one that officers registered by proposal.
	Ceremony string `json:"ceremony,omitempty"`
}

// Object is the resource name of the profile.
func (c CardProfile) Object() string { return profileObject(c.Issuer, c.Name) }

func profileObject(issuer, name string) string { return "issuers/" + issuer + "/profiles/" + name }

const (
	// kindProfile holds the newest version of each profile, kindFormer those before it.
	kindProfile store.Kind = "profile"
	kindFormer  store.Kind = "profile-former"
)

func profileRef(issuer, name string) store.Ref {
	return store.Ref{Kind: kindProfile, Issuer: issuer, ID: name}
}

func formerRef(c CardProfile) store.Ref {
	return store.Ref{Kind: kindFormer, Issuer: c.Issuer, ID: fmt.Sprintf("%s/%09d", c.Name, c.Version)}
}

// defaultProfile serves callers that name none.
const defaultProfile = "default"

// cardProfile is a version that was read.
type cardProfile struct {
	profile.Profile
	registered CardProfile
	digest     audit.Digest // of its document
	broken     error        // a document that this program does not take, though an older one did
}

// named puts into an event which profile it used.
func (c cardProfile) named(detail map[string]string) {
	detail["profile"], detail["profile_version"] = c.Name, fmt.Sprint(c.registered.Version)
}

// profile returns the newest version of a profile, at most cacheFor old; the name may be
// empty for "default".
func (s *Service) profile(ctx context.Context, issuer, name string) (cardProfile, error) {
	all, err := s.profiles.get(s.cfg.Now(), issuer, func(before map[string]cardProfile) (map[string]cardProfile, error) {
		return s.readProfiles(ctx, issuer, before)
	})
	if err != nil {
		return cardProfile{}, err
	}
	p, ok := all[cmp.Or(name, defaultProfile)]
	switch {
	case !ok:
		return p, fault.New(fault.NotFound, "no such card profile; officers register it (profile.register)")
	case p.registered.Withdrawn:
		return p, fault.New(fault.ProfileMismatch, "the card profile was withdrawn; officers register a newer version")
	}
	return p, p.broken
}

// readProfiles reads the newest versions of an issuer's profiles. A document that was read
// before is not parsed again.
func (s *Service) readProfiles(ctx context.Context, issuer string, before map[string]cardProfile) (map[string]cardProfile, error) {
	var rows []CardProfile
	err := s.cfg.Log.View(ctx, func(tx store.Rows) (err error) {
		rows, err = allProfiles(tx, issuer)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := map[string]cardProfile{}
	for _, r := range rows {
		p := cardProfile{registered: r, digest: audit.Digest(profile.Digest([]byte(r.Document)))}
		if had := before[r.Name]; had.registered.Document == r.Document {
			p.Profile, p.broken = had.Profile, had.broken
		} else {
			p.Profile, p.broken = profile.Parse([]byte(r.Document))
		}
		out[r.Name] = p
	}
	return out, nil
}

func allProfiles(tx store.Rows, issuer string) (all []CardProfile, err error) {
	for after := ""; ; {
		var some []CardProfile
		if some, after, err = page[CardProfile](tx, kindProfile, issuer, after, 500); err != nil {
			return nil, err
		}
		if all = append(all, some...); after == "" {
			return all, nil
		}
	}
}

// Profiles returns the newest versions of an issuer's profiles, by name.
func (s *Service) Profiles(ctx context.Context, r Request, issuer string) (all []CardProfile, err error) {
	if err := s.read(ctx, r, ProfileRead, issuer, "profiles"); err != nil {
		return nil, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err = allProfiles(tx, issuer)
		return err
	})
	return all, err
}

// Profile returns one version of a profile, and the newest for 0.
func (s *Service) Profile(ctx context.Context, r Request, issuer, name string, version int) (c CardProfile, err error) {
	if err := s.read(ctx, r, ProfileRead, issuer, "profiles/"+name); err != nil {
		return c, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if _, err := need(tx, profileRef(issuer, name), &c); err != nil || version == 0 || version == c.Version {
			return err
		}
		ref := formerRef(CardProfile{Issuer: issuer, Name: name, Version: version})
		c = CardProfile{}
		_, err := need(tx, ref, &c)
		return err
	})
	return c, err
}

// NewProfile is a document that a ceremony at the console registers.
type NewProfile struct {
	Issuer   string
	Document string
	Ceremony string // digest of its file
	Step     string // as the record names it
}

// LoadProfile registers the next version of a profile, and books the step of its
// ceremony. by names the person at the console. It is reached from the console only.
func (s *Service) LoadProfile(ctx context.Context, by string, n NewProfile) (c CardProfile, err error) {
	if !key.ValidName(n.Issuer) {
		return c, fault.New(fault.InvalidInput, "an issuer is named by 1 to 63 lower-case letters, digits and hyphens, a letter first")
	}
	if n.Ceremony != "" {
		if err := s.under(ctx, n.Ceremony); err != nil {
			return c, err
		}
	}
	p, err := s.proven(ctx, n.Document)
	if err != nil {
		return c, err
	}
	e := console(ProfileLoad, profileObject(n.Issuer, p.Name), by)
	e.issuer, e.digest = n.Issuer, audit.Digest(profile.Digest([]byte(n.Document)))
	if n.Ceremony != "" {
		e.detail["ceremony"] = n.Ceremony
	}
	err = s.log(ctx, &e, func(tx store.Rows) error {
		c = CardProfile{Issuer: n.Issuer, Name: p.Name, Document: n.Document, Ceremony: n.Ceremony}
		if c, err = s.register(tx, c); err != nil || n.Ceremony == "" {
			return err
		}
		return onCeremony(tx, n.Ceremony, func(had *Ceremony) { had.did(n.Step, s.doneNow(by)) })
	})
	return c, err
}

// register writes the next version of a profile, and moves the one before it to where
// former versions are.
func (s *Service) register(tx store.Rows, c CardProfile) (CardProfile, error) {
	var before CardProfile
	n, err := get(tx, profileRef(c.Issuer, c.Name), &before)
	if err != nil {
		return c, err
	}
	if n > 0 {
		if err := put(tx, formerRef(before), 0, before); err != nil {
			return c, err
		}
	}
	c.Version, c.Registered = before.Version+1, s.cfg.Now().UTC().Round(time.Second)
	return c, put(tx, profileRef(c.Issuer, c.Name), n, c)
}
