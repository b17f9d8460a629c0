package kms

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"cardkms/kms/fault"
)

// EntriesMax bounds how many entries one request reads.
const EntriesMax = 1000

// AuditEntries returns the encodings of at most limit entries from sequence from
// on.
func (s *Service) AuditEntries(ctx context.Context, r Request, from int64, limit int) ([][]byte, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	entries, err := s.cfg.Log.Leaves(ctx, from, min(limit, EntriesMax))
	if err == nil {
		s.readings.add(r, s.cfg.Now(), from, int64(len(entries)))
	}
	return entries, err
}

// AuditFirst returns the sequence of the first entry whose content is still here.
func (s *Service) AuditFirst() int64 { return s.cfg.Log.First() }

// AuditCheckpoint returns a signed checkpoint that covers every entry so far, or
// the newest one that witnesses have cosigned.
func (s *Service) AuditCheckpoint(ctx context.Context, r Request, witnessed bool) ([]byte, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	if witnessed {
		return s.cfg.Log.Witnessed(ctx)
	}
	return s.cfg.Log.Checkpoint(ctx)
}

// AuditProof proves that the tree of this size holds an entry.
func (s *Service) AuditProof(ctx context.Context, r Request, seq, size int64) (tlog.RecordProof, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	proof, err := s.cfg.Log.InclusionProof(ctx, seq, size)
	if err == nil {
		s.readings.add(r, s.cfg.Now(), seq, 1)
	}
	return proof, err
}

// AuditGrowth proves that the tree of size newer starts with that of size older.
func (s *Service) AuditGrowth(ctx context.Context, r Request, older, newer int64) (tlog.TreeProof, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	return s.cfg.Log.ConsistencyProof(ctx, older, newer)
}

// readingsEvery is how long a caller's readings of the log are added up before
// one entry tells of them: an entry for each would have auditors read about
// themselves for ever.
const readingsEvery = time.Minute

// readings add up who read how much of the log.
type readings struct {
	mu       sync.Mutex
	byCaller map[string]*reading
}

type reading struct {
	req                Request
	since              time.Time
	requests, entries  int64
	lowest, afterwards int64 // entries [lowest, afterwards)
}

func (rs *readings) add(r Request, now time.Time, from, n int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.byCaller == nil {
		rs.byCaller = map[string]*reading{}
	}
	a := rs.byCaller[r.Caller.ID]
	if a == nil {
		a = &reading{req: r, since: now, lowest: from, afterwards: from}
		rs.byCaller[r.Caller.ID] = a
	}
	a.requests, a.entries = a.requests+1, a.entries+n
	a.lowest, a.afterwards = min(a.lowest, from), max(a.afterwards, from+n)
}

// take returns the readings that began at least this long ago.
func (rs *readings) take(now time.Time, age time.Duration) (out []*reading) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id, a := range rs.byCaller {
		if now.Sub(a.since) >= age {
			out = append(out, a)
			delete(rs.byCaller, id)
		}
	}
	return out
}

// logReadings writes one entry for each caller who began to read the log at least
// this long ago. If the process dies before, at most readingsEvery of readings
// are not in the log; they changed nothing.
func (s *Service) logReadings(now time.Time, age time.Duration) {
	for _, a := range s.readings.take(now, age) {
		e := event{req: a.req, op: AuditRead, object: "audit", detail: map[string]string{
			"requests": fmt.Sprint(a.requests), "entries": fmt.Sprint(a.entries),
			"from": fmt.Sprint(a.lowest), "to": fmt.Sprint(a.afterwards), "since": a.since.UTC().Format("2006-01-02T15:04:05Z"),
		}}
		ctx, cancel := context.WithTimeout(context.Background(), readingsTimeout)
		if err := s.log(ctx, &e, nil); err != nil {
			s.cfg.Logger.Error("readings of the audit log are not in it", slog.String("code", string(fault.CodeOf(err))))
		}
		cancel()
	}
}

const readingsTimeout = 5 * time.Second
