package kms

import (
	"context"
	"time"

	"cardkms/kms/key"
	"cardkms/kms/store"
)

const kindFleet store.Kind = "fleet"

// fleet counts the cards of one key by the version that they last proved, so that
// "who still needs version N" is answered at once. It changes in the transaction
// that changes the card.
type fleet struct {
	Cards map[int]int64 `json:"cards"` // by version
	// Moved counts cards that came to a newer version, by hour since 1970, for the
	// last movedHours.
	Moved map[int64]int64 `json:"moved,omitempty"`
}

const (
	movedHours = 24
	// forecastDays bounds a forecast; a time.Duration ends after 292 years.
	forecastDays = 100 * 365
)

func fleetRef(issuer, name string) store.Ref {
	return store.Ref{Kind: kindFleet, Issuer: issuer, ID: name}
}

// countCard books that a card's newest proven version changed. Version 0 is none.
func countCard(tx store.Rows, issuer, name string, from, to int, now time.Time) error {
	ref := fleetRef(issuer, name)
	f := fleet{Cards: map[int]int64{}, Moved: map[int64]int64{}}
	n, err := get(tx, ref, &f)
	if err != nil {
		return err
	}
	if from > 0 {
		if f.Cards[from]--; f.Cards[from] == 0 {
			delete(f.Cards, from)
		}
		hour := now.Unix() / 3600
		if f.Moved == nil {
			f.Moved = map[int64]int64{}
		}
		f.Moved[hour]++
		for h := range f.Moved {
			if h <= hour-movedHours {
				delete(f.Moved, h)
			}
		}
	}
	f.Cards[to]++
	return put(tx, ref, n, f)
}

// Rotation is how far a key's cards have come.
type Rotation struct {
	Issuer, Key string
	Versions    []VersionCards // ascending by version
	Target      int            // newest active version; 0 for none
	Remaining   int64          // cards that are not at Target yet
	// Moves are counted by clock hour: MovedLastHour are those since this one began,
	// MovedLastDay those of it and the 23 before.
	MovedLastHour,
	MovedLastDay int64
	// Forecast is when the last card is expected at Target, at the pace of the last
	// day; zero if nothing moved, nothing remains, or it would take over a century.
	Forecast time.Time
}

// VersionCards is a version with the number of cards that last proved it.
type VersionCards struct {
	Version key.Version
	Cards   int64
}

// RotationStatus answers who still needs which version of a key.
func (s *Service) RotationStatus(ctx context.Context, r Request, issuer, name string) (out Rotation, err error) {
	if err := s.read(ctx, r, KeyRead, issuer, "keys/"+printable(name)); err != nil {
		return out, err
	}
	if err := s.exists(ctx, issuer, name, key.GPSCP03, key.GPSCP02); err != nil {
		return out, err
	}
	return s.rotation(ctx, issuer, name)
}

func (s *Service) rotation(ctx context.Context, issuer, name string) (out Rotation, err error) {
	out.Issuer, out.Key = issuer, name
	var f fleet
	var all []key.Version
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if _, err := get(tx, fleetRef(issuer, name), &f); err != nil {
			return err
		}
		all, err = allVersions(tx, issuer)
		return err
	})
	if err != nil {
		return out, err
	}
	now := s.cfg.Now()
	for _, v := range all {
		if v.ID.Name != name {
			continue
		}
		out.Versions = append(out.Versions, VersionCards{v, f.Cards[v.ID.Version]})
		if serves(v, key.Protect, now) == nil {
			out.Target = v.ID.Version
		}
	}
	for _, v := range out.Versions {
		if v.Version.ID.Version < out.Target {
			out.Remaining += v.Cards
		}
	}
	out.forecast(f, now)
	return out, nil
}

func (r *Rotation) forecast(f fleet, now time.Time) {
	hour := now.Unix() / 3600
	for h, n := range f.Moved {
		if h > hour-movedHours {
			r.MovedLastDay += n
		}
	}
	r.MovedLastHour = f.Moved[hour]
	if r.Remaining > 0 && r.MovedLastDay > 0 {
		days := float64(r.Remaining) / float64(r.MovedLastDay)
		if days <= forecastDays {
			r.Forecast = now.Add(time.Duration(days * 24 * float64(time.Hour))).Round(time.Minute)
		}
	}
}
