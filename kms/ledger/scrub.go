package ledger

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"

	"cardkms/audit"
	"cardkms/audit/statemap"
	"cardkms/kms/store"
)

// scrubPage is how many rows are read at a time.
const scrubPage = 512

// Scrub compares every row and every entry with what this process knows, and
// returns what is wrong. It runs beside everything else, in one View. The error
// is about reading.
func (l *Ledger) Scrub(ctx context.Context) (found []*Violation, err error) {
	err = l.view(ctx, func(tx store.Tx, st *state) (err error) {
		if found, err = l.scrubRows(ctx, tx, st); err != nil {
			return err
		}
		return st.scrubLog(ctx, tx)
	})
	var v *Violation
	if errors.As(err, &v) {
		return append(found, v), nil
	}
	return found, err
}

// scrubLog compares every entry and every stored hash, also those of subtrees that
// are larger than a block.
func (s *state) scrubLog(ctx context.Context, tx store.Leaves) error {
	if err := s.sized(tx); err != nil {
		return err
	}
	var above audit.Edge
	for from := int64(0); from < s.head.size; from += blockEntries {
		if err := ctx.Err(); err != nil {
			return err
		}
		leaves, err := s.block(tx, from)
		if err != nil {
			return err
		}
		if len(leaves) < blockEntries {
			continue
		}
		last := leaves[blockEntries-1].Hashes
		if !same(above.Append(s.blockRoot(from)), last[blockLevel:]) {
			return whole("a hash that was stored with entry %d was changed", from+blockEntries-1)
		}
	}
	return nil
}

// guard compares everything, as Open does, while the service runs, and closes intents that
// nobody will.
func (l *Ledger) guard(ctx context.Context) {
	if err := l.closeAbandoned(ctx); err != nil && ctx.Err() == nil {
		l.cfg.Logger.Error("audit log: abandoned operations could not be closed", slog.Any("error", err))
	}
	found, err := l.compareAll(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.cfg.Logger.Error("audit log: the database could not be compared", slog.Any("error", err))
		}
		return
	}
	for _, v := range found {
		l.report(v)
	}
	l.heal(found)
}

func (l *Ledger) compareAll(ctx context.Context) ([]*Violation, error) {
	found, err := l.compareAnchors(ctx)
	if err != nil {
		return nil, err
	}
	if v, err := l.compareCheckpoints(ctx); err != nil {
		return nil, err
	} else if v != nil {
		found = append(found, v)
	}
	rows, err := l.Scrub(ctx)
	return append(found, rows...), err
}

// compareCheckpoints checks that the stored checkpoint is the newest one.
func (l *Ledger) compareCheckpoints(ctx context.Context) (*Violation, error) {
	if err := l.takeSign(ctx); err != nil {
		return nil, err
	}
	defer l.giveSign()
	err := l.view(ctx, func(tx store.Tx, st *state) error {
		c, err := l.readCheckpoint(tx, st, CheckpointRef)
		if errors.Is(err, store.ErrNotFound) {
			return whole("the checkpoint was deleted")
		}
		if err == nil && (c.version < l.signed.version || c.size < l.signed.size) {
			return whole("an older checkpoint was put back")
		}
		if err != nil {
			return err
		}
		if _, err := l.readCheckpoint(tx, st, cosignedRef); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return nil
	})
	var v *Violation
	if errors.As(err, &v) {
		return v, nil
	}
	return nil, err
}

// tally adds up rows and what the state map says of them, in any order: the sum
// over a secret function of each. Two sets with one sum are the same set, for
// whoever does not know the key of this pass.
type tally struct {
	key [32]byte
	sum [32]byte
}

func newTally() *tally {
	t := &tally{}
	_, _ = rand.Read(t.key[:])
	return t
}

func (t *tally) add(e statemap.Entry) {
	mac := hmac.New(sha256.New, t.key[:])
	mac.Write(e.Append(nil))
	for i, b := range mac.Sum(nil) {
		t.sum[i] ^= b
	}
}

// scrubRows compares the rows with the buckets, and the buckets with the head. A
// pass that finds nothing holds one page in memory; one that finds something
// reads both again to name it.
func (l *Ledger) scrubRows(ctx context.Context, tx store.Tx, st *state) ([]*Violation, error) {
	mapped, found, err := st.tallyMap(tx)
	if err != nil || len(found) > 0 {
		return found, err
	}
	stored := &tally{key: mapped.key}
	counts := map[statemap.Name]int64{}
	err = eachRow(ctx, tx, func(row store.Row) error {
		n := nameOf(row.Ref)
		counts[n.Count()]++
		stored.add(statemap.Entry{Name: n, Version: row.Version, Digest: digestOf(row)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for n, count := range counts {
		stored.add(statemap.Entry{Name: n, Version: count})
	}
	if stored.sum == mapped.sum {
		return nil, nil
	}
	return l.nameRows(ctx, tx)
}

// tallyMap adds up what the state map says, and compares every bucket with it.
func (s *state) tallyMap(tx store.Tx) (*tally, []*Violation, error) {
	t := newTally()
	var found []*Violation
	seen := statemap.Map{}
	err := eachBucket(tx, func(n int, row store.Row) error {
		b, v := openBucket(n, row, s.rows)
		if v != nil {
			found = append(found, v)
			return nil
		}
		for _, e := range b.Entries {
			t.add(e)
		}
		seen = seen.With(n, statemap.BucketDigest(row.Body))
		return nil
	})
	if err == nil && len(found) == 0 && seen.Root() != s.rows.Root() {
		found = append(found, whole("buckets of the state map were deleted"))
	}
	return t, found, err
}

// eachRow calls f for every row that the state map covers.
func eachRow(ctx context.Context, tx store.Tx, f func(store.Row) error) error {
	for last := (store.Ref{}); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := tx.All(last, scrubPage)
		if err != nil {
			return err
		}
		for _, row := range page {
			if !before(last, row.Ref) {
				return &Violation{Ref: row.Ref, What: "is there twice"}
			}
			last = row.Ref
			if row.Kind == kindLog || row.Kind == kindStateMap {
				continue
			}
			if err := f(row); err != nil {
				return err
			}
		}
		if len(page) < scrubPage {
			return nil
		}
	}
}

// before reports whether a comes before b in Store.All.
func before(a, b store.Ref) bool {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.ID, b.ID)) < 0
}

// nameRows finds out which rows are not what was written. Where a row's MAC is not
// the token's, it was forged; where it is, an older or another row was put there.
func (l *Ledger) nameRows(ctx context.Context, tx store.Tx) (found []*Violation, err error) {
	want := map[statemap.Name]statemap.Entry{}
	err = eachBucket(tx, func(_ int, row store.Row) error {
		b, err := statemap.ParseBucket(row.Body)
		for _, e := range b.Entries {
			if e.ID != "" {
				want[e.Name] = e
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, tx, func(row store.Row) error {
		e, known := want[nameOf(row.Ref)]
		delete(want, nameOf(row.Ref))
		v := compare(row.Ref, row, false, e, known)
		if v == nil {
			return nil
		}
		ok, err := l.genuine(ctx, l.rowMessage(row), row.MAC)
		if err == nil && !ok {
			v.What += " and carries no MAC of this service's token"
		}
		found = append(found, v)
		return nil //nolint:nilerr // a token that is away does not hide what was found
	})
	for n := range want {
		found = append(found, &Violation{Ref: refOf(n), What: "was deleted"})
	}
	return found, err
}
