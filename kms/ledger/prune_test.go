package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"cardkms/audit"
	"cardkms/kms/fault"
)

func TestEmptyKeepsEveryProof(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := openDir(t, dir)
	l, err := Open(ctx, config(t, s))
	must(t, err)
	const n = 3*blockEntries + 17
	for i := range n {
		mustDo(t, l, mark(fmt.Sprint(i)))
	}
	leaves, err := l.Leaves(ctx, 0, n)
	must(t, err)
	for _, wrong := range []int64{0, 1, blockEntries - 1, n, n + blockEntries, -blockEntries} {
		if _, err := l.Empty(ctx, wrong, entry("prune")); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("emptied before %d: %v", wrong, err)
		}
	}
	if seq, err := l.Empty(ctx, 2*blockEntries, entry("prune")); err != nil || seq != n || l.First() != 2*blockEntries {
		t.Fatalf("Empty = %d, %v; first %d", seq, err, l.First())
	}
	if _, err := l.Empty(ctx, blockEntries, entry("prune")); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("emptied again: %v", err)
	}
	if _, err := l.Leaves(ctx, 2*blockEntries-1, 5); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("an emptied entry: %v", err)
	}
	rest, err := l.Leaves(ctx, 2*blockEntries, n)
	if err != nil || len(rest) != n+1-2*blockEntries || string(rest[0]) != string(leaves[2*blockEntries]) {
		t.Errorf("%d entries are left, %v", len(rest), err)
	}
	must(t, errors.Join(l.Close(ctx), s.Close()))

	l, err = reopen(t, dir) // what was emptied is not a violation
	must(t, err)
	c := opened(t, l)
	for _, seq := range []int64{0, 1, blockEntries, 2*blockEntries - 1, 2 * blockEntries, n - 1} {
		p, err := l.InclusionProof(ctx, seq, c.Size)
		must(t, err)
		if err := audit.CheckEntry(p, c, seq, leaves[seq]); err != nil {
			t.Errorf("entry %d: %v", seq, err)
		}
	}
	if found, err := l.Scrub(ctx); err != nil || len(found) != 0 {
		t.Errorf("Scrub: %v, %v", found, err)
	}
	must(t, l.Close(ctx))
}
