package kms

import (
	"context"

	"golang.org/x/mod/sumdb/tlog"
)

// EntriesMax bounds how many entries one request reads.
const EntriesMax = 1000

// AuditEntries returns the encodings of at most limit entries from sequence from
// on.
func (s *Service) AuditEntries(ctx context.Context, r Request, from int64, limit int) ([][]byte, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	return s.cfg.Log.Leaves(ctx, from, min(limit, EntriesMax))
}

// AuditCheckpoint returns a signed checkpoint that covers every entry so far.
func (s *Service) AuditCheckpoint(ctx context.Context, r Request) ([]byte, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	return s.cfg.Log.Checkpoint(ctx)
}

// AuditProof proves that the tree of this size holds an entry.
func (s *Service) AuditProof(ctx context.Context, r Request, seq, size int64) (tlog.RecordProof, error) {
	if err := s.read(ctx, r, AuditRead, "", "audit"); err != nil {
		return nil, err
	}
	return s.cfg.Log.InclusionProof(ctx, seq, size)
}
