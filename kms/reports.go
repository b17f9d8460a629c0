package kms

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/report"
	"cardkms/kms/store"
)

// ReportInput asks for a report. Reports of a period need one of at most
// reportMax; the others take none.
type ReportInput struct {
	Name     report.Name
	From, To time.Time
}

// reportMax bounds the period of one report, because all its entries are read.
const reportMax = 31 * 24 * time.Hour

// Report makes a report and returns it as a note that the log's key signed.
func (s *Service) Report(ctx context.Context, r Request, in ReportInput) ([]byte, error) {
	e, err := s.start(ctx, r, ReportRead, "", "reports/"+string(in.Name))
	if err != nil {
		return nil, err
	}
	d, err := s.report(ctx, in)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing a report: %w", err)
	}
	e.digest = digestOf(text)
	if err := s.log(ctx, &e, nil); err != nil {
		return nil, err
	}
	return s.cfg.Log.SignText(string(text) + "\n")
}

func (s *Service) report(ctx context.Context, in ReportInput) (report.Document, error) {
	h, err := s.reportHead(ctx, in)
	if err != nil {
		return nil, err
	}
	switch in.Name {
	case report.Inventory:
		return s.inventory(ctx, h)
	case report.Cryptoperiods:
		versions, err := s.AllKeys(ctx)
		return report.NewCryptoperiods(h, versions), err
	}
	if !in.From.Before(in.To) || in.To.Sub(in.From) > reportMax {
		return nil, fault.New(fault.InvalidInput, "a report covers a period of at most 31 days")
	}
	h.From, h.To = in.From.UTC(), in.To.UTC()
	switch in.Name {
	case report.Access:
		return report.NewAccess(h, *s.clients.Load(), s.entriesOf(ctx, h))
	case report.Algorithms:
		versions, err := s.AllKeys(ctx)
		if err != nil {
			return nil, err
		}
		return report.NewAlgorithms(h, versions, s.entriesOf(ctx, h))
	case report.Daily:
		return report.NewDaily(h, s.entriesOf(ctx, h))
	}
	return nil, fault.New(fault.NotFound, "there is no such report")
}

// reportHead names the log that the report was computed from, by a checkpoint.
func (s *Service) reportHead(ctx context.Context, in ReportInput) (report.Head, error) {
	c, err := s.cfg.Log.Signed(ctx)
	return report.Head{
		Report: in.Name, Log: c.Origin, Made: s.cfg.Now().UTC().Round(time.Second),
		Entries: c.Size, Root: base64.StdEncoding.EncodeToString(c.Root[:]),
	}, err
}

// inventoryOfProfiles adds the newest versions of every issuer's card profiles.
func (s *Service) inventoryOfProfiles(ctx context.Context, to *report.InventoryReport) error {
	return s.cfg.Log.View(ctx, func(tx store.Rows) error {
		for _, issuer := range s.cfg.Issuers {
			all, err := allProfiles(tx, issuer)
			if err != nil {
				return err
			}
			for _, c := range all {
				digest := profile.Digest([]byte(c.Document))
				to.Profiles = append(to.Profiles, report.Profile{
					Name: c.Object(), Version: c.Version, Registered: c.Registered, SHA256: hex.EncodeToString(digest[:]), Withdrawn: c.Withdrawn,
				})
			}
		}
		return nil
	})
}

// entriesOf yields the entries of a period. Times are almost in order, so the log
// is read from the end until entries are older than the period by clockSlack.
func (s *Service) entriesOf(ctx context.Context, h report.Head) report.Entries {
	return func(yield func(audit.Entry, error) bool) {
		from, err := s.firstSince(ctx, h)
		for err == nil && from < h.Entries {
			var some []audit.Entry
			if some, err = s.cfg.Log.Entries(ctx, from, int(min(EntriesMax, h.Entries-from))); err != nil {
				break
			}
			for _, e := range some {
				if !e.Time.Before(h.From) && e.Time.Before(h.To) && !yield(e, nil) {
					return
				}
			}
			from += int64(len(some))
		}
		if err != nil {
			yield(audit.Entry{}, err)
		}
	}
}

// clockSlack is how far a clock may have been set back without an entry of the
// period being missed.
const clockSlack = time.Hour

// firstSince returns a sequence before which no entry is of the period.
func (s *Service) firstSince(ctx context.Context, h report.Head) (int64, error) {
	low, high := s.cfg.Log.First(), h.Entries
	for low < high {
		mid := low + (high-low)/2
		some, err := s.cfg.Log.Entries(ctx, mid, 1)
		if err != nil {
			return 0, err
		}
		if len(some) != 1 {
			return 0, errors.New("kms: an entry of the log is missing")
		}
		if some[0].Time.Before(h.From.Add(-clockSlack)) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, nil
}

// AllKeys returns the key versions of every issuer of the configuration.
func (s *Service) AllKeys(ctx context.Context) (all []key.Version, err error) {
	for _, issuer := range s.cfg.Issuers {
		some, err := s.versions(ctx, issuer)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}
