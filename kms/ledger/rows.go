package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cardkms/audit"
	"cardkms/audit/statemap"
	"cardkms/kms/store"
)

// rows reads rows in one transaction and checks each against the state map of
// that moment. In a group it also stages changes; they reach the store when the
// group ends, so that a change that fails leaves nothing to undo.
type rows struct {
	tx      store.Tx
	rows    statemap.Map
	buckets map[int]statemap.Bucket
	staged  map[store.Ref]store.Row // newest of the changes that succeeded
	change  map[store.Ref]store.Row // newest of the change under way; nil in a View
	kept    []store.Row             // every version that the changes which succeeded wrote, in order
	written []store.Row             // the same of the change under way
}

func newRows(tx store.Tx, m statemap.Map) *rows {
	return &rows{tx: tx, rows: m, buckets: map[int]statemap.Bucket{}, staged: map[store.Ref]store.Row{}}
}

func nameOf(ref store.Ref) statemap.Name {
	return statemap.Name{Kind: string(ref.Kind), Issuer: ref.Issuer, ID: ref.ID}
}

func refOf(n statemap.Name) store.Ref {
	return store.Ref{Kind: store.Kind(n.Kind), Issuer: n.Issuer, ID: n.ID}
}

var (
	errReserved = errors.New("ledger: rows of this kind or without an ID are not the caller's")
	errView     = errors.New("ledger: a view does not write")
)

// reserved refuses the names that the ledger keeps for itself, and those that
// the state map cannot hold.
func reserved(ref store.Ref) error {
	if ref.Kind == kindLog || ref.Kind == kindStateMap || ref.Kind == "" || ref.ID == "" || !nameOf(ref).Valid() {
		return errReserved
	}
	return nil
}

// bucket reads and checks a bucket, at most once per transaction.
func (r *rows) bucket(n int) (statemap.Bucket, error) {
	if b, ok := r.buckets[n]; ok {
		return b, nil
	}
	row, err := r.tx.Get(bucketRef(n))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return statemap.Bucket{}, err
	}
	b, v := openBucket(n, row, r.rows)
	if v != nil {
		return b, v
	}
	r.buckets[n] = b
	return b, nil
}

// openBucket parses the row of a bucket, or its absence, and compares it with a
// map.
func openBucket(n int, row store.Row, m statemap.Map) (b statemap.Bucket, v *Violation) {
	want := m.Bucket(n)
	if len(row.Body) == 0 && row.Version == 0 && want == (statemap.Digest{}) {
		return b, nil
	}
	b, err := statemap.ParseBucket(row.Body)
	if err != nil || statemap.BucketDigest(row.Body) != want || b.Version != row.Version || len(row.MAC) != 0 {
		return b, &Violation{Ref: bucketRef(n), What: "is not the bucket that the head of the log covers"}
	}
	return b, nil
}

// entry returns what the state map says of a row.
func (r *rows) entry(n statemap.Name) (statemap.Entry, bool, error) {
	b, err := r.bucket(n.Bucket())
	if err != nil {
		return statemap.Entry{}, false, err
	}
	e, ok := b.Find(n)
	return e, ok, nil
}

func (r *rows) pending(ref store.Ref) (store.Row, bool) {
	if row, ok := r.change[ref]; ok {
		return row, true
	}
	row, ok := r.staged[ref]
	return row, ok
}

// Get implements store.Rows.
func (r *rows) Get(ref store.Ref) (store.Row, error) {
	if err := reserved(ref); err != nil {
		return store.Row{}, err
	}
	if row, ok := r.pending(ref); ok {
		return row, nil
	}
	row, err := r.tx.Get(ref)
	missing := errors.Is(err, store.ErrNotFound)
	if err != nil && !missing {
		return store.Row{}, err
	}
	if verr := r.check(ref, row, missing); verr != nil {
		return store.Row{}, verr
	}
	return row, err
}

// check compares a row, or its absence, with the state map.
func (r *rows) check(ref store.Ref, row store.Row, missing bool) error {
	want, ok, err := r.entry(nameOf(ref))
	if err != nil {
		return err
	}
	if v := compare(ref, row, missing, want, ok); v != nil && !believeRows {
		return v
	}
	return nil
}

// compare says what is wrong with a row, nil if nothing is.
func compare(ref store.Ref, row store.Row, missing bool, want statemap.Entry, known bool) *Violation {
	switch {
	case missing && known:
		return &Violation{Ref: ref, What: "was deleted"}
	case missing:
		return nil
	case !known:
		return &Violation{Ref: ref, What: "was never written by the service"}
	case row.Version < want.Version:
		return &Violation{Ref: ref, What: "is an older version than the newest one"}
	case row.Version != want.Version, digestOf(row) != want.Digest:
		return &Violation{Ref: ref, What: "was changed"}
	}
	return nil
}

// contentOf and digestOf return the digests of a row without and with its MAC.
func contentOf(row store.Row) statemap.Digest {
	return statemap.ContentDigest(nameOf(row.Ref), row.Version, row.Body)
}

func digestOf(row store.Row) statemap.Digest { return statemap.RowDigest(contentOf(row), row.MAC) }

// Put implements store.Rows. The row reaches the store at the end of the group.
func (r *rows) Put(row store.Row) error {
	if r.change == nil {
		return errView
	}
	if err := reserved(row.Ref); err != nil {
		return err
	}
	have, err := r.Get(row.Ref) // also: never replace a row that is not what was written
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if row.Version < 1 || row.Version != have.Version+1 {
		return store.ErrVersion
	}
	row.Body = bytes.Clone(row.Body)
	r.change[row.Ref] = row
	r.written = append(r.written, row)
	return nil
}

// List implements store.Rows. A page that is a whole list must have as many rows
// as were written, so that a deleted one shows.
func (r *rows) List(kind store.Kind, issuer, after string, limit int) ([]store.Row, error) {
	if limit <= 0 {
		return nil, nil
	}
	page, err := r.tx.List(kind, issuer, after, limit)
	if err != nil {
		return nil, err
	}
	if after == "" && len(page) < limit {
		if err := r.complete(kind, issuer, len(page)); err != nil {
			return nil, err
		}
	}
	last := after
	for _, row := range page {
		if row.Kind != kind || row.Issuer != issuer || row.ID <= last {
			return nil, &Violation{Ref: row.Ref, What: "is in a list twice, or in another's"}
		}
		last = row.ID
		if err := r.check(row.Ref, row, false); err != nil {
			return nil, err
		}
	}
	return r.merge(page, kind, issuer, after, limit), nil
}

func (r *rows) complete(kind store.Kind, issuer string, got int) error {
	n := statemap.Name{Kind: string(kind), Issuer: issuer}
	want, _, err := r.entry(n)
	if err != nil {
		return err
	}
	if want.Version != int64(got) {
		return &Violation{Ref: refOf(n), What: fmt.Sprintf("is a list of %d rows where %d were written", got, want.Version)}
	}
	return nil
}

// merge adds the rows of the group to a page.
func (r *rows) merge(page []store.Row, kind store.Kind, issuer, after string, limit int) []store.Row {
	byID := map[string]store.Row{}
	for _, layer := range []map[store.Ref]store.Row{r.staged, r.change} {
		for ref, row := range layer {
			if ref.Kind == kind && ref.Issuer == issuer && ref.ID > after {
				byID[ref.ID] = row
			}
		}
	}
	if len(byID) == 0 {
		return page
	}
	for i, row := range page {
		if newer, ok := byID[row.ID]; ok {
			page[i] = newer
			delete(byID, row.ID)
		}
	}
	page = slices.AppendSeq(page, maps.Values(byID))
	slices.SortFunc(page, func(a, b store.Row) int { return strings.Compare(a.ID, b.ID) })
	return page[:min(limit, len(page))]
}

// begin starts a change; keep makes what it staged part of the group.
func (r *rows) begin() { r.change, r.written = map[store.Ref]store.Row{}, nil }

// digests returns what the entry of the change says about the state before and
// after it: the digest of the one row that it wrote, or, if it wrote several,
// SHA-256 over their digests in the order of their names. A row that was not
// there counts as zero bytes.
func (r *rows) digests() (before, after audit.Digest, err error) {
	changed := sorted(r.change)
	var old, now []byte
	for _, row := range changed {
		var had, has statemap.Digest
		if row.Version > 1 {
			previous, ok := r.staged[row.Ref]
			if !ok {
				previous, err = r.tx.Get(row.Ref)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return before, after, err
			}
			if previous.Version > 0 { // else this change made the row, and changed it again
				had = contentOf(previous)
			}
		}
		has = contentOf(row)
		old, now = append(old, had[:]...), append(now, has[:]...)
	}
	switch len(changed) {
	case 0:
		return before, after, nil
	case 1:
		return audit.Digest(old), audit.Digest(now), nil
	}
	return sha256.Sum256(old), sha256.Sum256(now), nil
}

// touched returns the buckets of the state map that the change which was kept last
// changes: those of its rows and, where it made one, of the count of their kind. Whoever
// follows the log reads these again; one that is missing here makes that slower only.
func (r *rows) touched() (buckets []uint16) {
	for _, row := range r.written {
		n := nameOf(row.Ref)
		buckets = append(buckets, uint16(n.Bucket()))
		if row.Version == 1 {
			buckets = append(buckets, uint16(n.Count().Bucket()))
		}
	}
	slices.Sort(buckets)
	return slices.Compact(buckets)
}

func (r *rows) keep() {
	maps.Copy(r.staged, r.change)
	r.kept = append(r.kept, r.written...)
}

// versions returns every version of a group, as the store takes them one after
// another; the newest of each row comes from sealed, with its MAC.
func (r *rows) versions(sealed []store.Row) []store.Row {
	newest := map[store.Ref]store.Row{}
	for _, row := range sealed {
		newest[row.Ref] = row
	}
	out := slices.Clone(r.kept)
	for i, row := range out {
		if n := newest[row.Ref]; n.Version == row.Version {
			out[i] = n
		}
	}
	return out
}

// changed returns the rows of the group.
func (r *rows) changed() []store.Row { return sorted(r.staged) }

// sorted returns rows in the order of their names.
func sorted(rows map[store.Ref]store.Row) []store.Row {
	return slices.SortedFunc(maps.Values(rows), func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.ID, b.ID))
	})
}

// update books rows, which have their MACs, in the state map and returns the rows of the buckets that
// changed, and the map after that.
func (r *rows) update(changed []store.Row) (buckets []store.Row, after statemap.Map, err error) {
	touched := map[int]bool{}
	set := func(e statemap.Entry) error {
		n := e.Bucket()
		b, err := r.bucket(n)
		if err != nil {
			return err
		}
		if !touched[n] {
			b.Version++
		}
		r.buckets[n], touched[n] = b.With(e), true
		return nil
	}
	for _, row := range changed {
		n := nameOf(row.Ref)
		_, known, err := r.entry(n)
		if err != nil {
			return nil, after, err
		}
		if !known {
			count, _, err := r.entry(n.Count())
			if err != nil {
				return nil, after, err
			}
			if err := set(statemap.Entry{Name: n.Count(), Version: count.Version + 1}); err != nil {
				return nil, after, err
			}
		}
		if err := set(statemap.Entry{Name: n, Version: row.Version, Digest: digestOf(row)}); err != nil {
			return nil, after, err
		}
	}
	after = r.rows
	for _, n := range slices.Sorted(maps.Keys(touched)) {
		b := r.buckets[n]
		encoded := b.Encode()
		after = after.With(n, statemap.BucketDigest(encoded))
		buckets = append(buckets, store.Row{Ref: bucketRef(n), Version: b.Version, Body: encoded})
	}
	return buckets, after, nil
}
