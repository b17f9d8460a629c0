package update_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/kms/fault"
	"cardkms/kms/update"
)

func TestParseStatus(t *testing.T) {
	tok, p := samplePackage(t)
	for state := range 256 {
		b := status(t, tok, p, update.CardState(state), 0xE0)
		s, err := update.ParseStatus(b)
		if (err == nil) != (state <= 5) {
			t.Errorf("state %02X: %v", state, err)
		}
		if err != nil {
			continue
		}
		if int(s.State) != state || s.Sequence != 7 || s.Counter != 2 || s.Version != p.Manifest.Image.From {
			t.Errorf("state %02X parses as %+v", state, s)
		}
		if err := p.VerifyStatus(ctx, tok, s); err != nil {
			t.Errorf("state %02X: %v", state, err)
		}
	}
}

// TestAlteredStatus changes every byte of a status in every bit: either it is no
// status any more, or its MAC does not verify.
func TestAlteredStatus(t *testing.T) {
	tok, p := samplePackage(t)
	good := status(t, tok, p, update.Staging, 0xA0)
	altered(t, good, func(b []byte) error {
		s, err := update.ParseStatus(b)
		if err == nil {
			err = p.VerifyStatus(ctx, tok, s)
		}
		return err
	})
}

// TestAlteredReceipt does the same for the receipt, and for suite 00, where
// the fields decide alone.
func TestAlteredReceipt(t *testing.T) {
	for _, suite := range []func(*update.Manifest){func(*update.Manifest) {}, plain} {
		tok, p := samplePackage(t, suite)
		good := receipt(t, tok, p)
		if err := p.VerifyReceipt(ctx, tok, good); err != nil {
			t.Fatal(err)
		}
		altered(t, good, func(b []byte) error { return p.VerifyReceipt(ctx, tok, b) })
	}
}

func altered(t *testing.T, good []byte, verify func([]byte) error) {
	t.Helper()
	refuse := func(what string, n int, b []byte) {
		t.Helper()
		code := fault.CodeOf(verify(b))
		if code != fault.ProofFailed && code != fault.InvalidInput {
			t.Errorf("%s %d: %s", what, n, code)
		}
	}
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		refuse("bit", bit, b)
	}
	for n := range good {
		refuse("cut to", n, good[:n])
	}
	refuse("longer by", 1, append(bytes.Clone(good), 0))
	refuse("twice", 2, append(bytes.Clone(good), good...))
}

// TestReceiptOfAnother: a receipt with a good MAC that speaks of another state,
// version or counter proves nothing, and neither does another object's MAC.
func TestReceiptOfAnother(t *testing.T) {
	tok, p := samplePackage(t)
	to, from := p.Manifest.Image.To, p.Manifest.Image.From
	for name, b := range map[string][]byte{
		"trial only":      object(t, tok, p, 0xE6, field(0x92, 3), field(0x87, to[:]...), field(0x88, 0, 0, 0, 3)),
		"the old version": object(t, tok, p, 0xE6, field(0x92, 5), field(0x87, from[:]...), field(0x88, 0, 0, 0, 3)),
		"a lower counter": object(t, tok, p, 0xE6, field(0x92, 5), field(0x87, to[:]...), field(0x88, 0, 0, 0, 2)),
		"a long counter":  object(t, tok, p, 0xE6, field(0x92, 5), field(0x87, to[:]...), field(0x88, 0, 0, 0, 0, 3)),
	} {
		if err := p.VerifyReceipt(ctx, tok, b); fault.CodeOf(err) != fault.ProofFailed {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The receipt of another package of the same card.
	tok2, other := samplePackage(t, func(m *update.Manifest) { m.Sequence++ })
	if err := p.VerifyReceipt(ctx, tok, receipt(t, tok2, other)); fault.CodeOf(err) != fault.ProofFailed {
		t.Errorf("another package's receipt: %v", err)
	}
	// A status and a commit are no receipts, though their MACs verify.
	commit, err := p.Commit(ctx, tok)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{commit, status(t, tok, p, update.Confirmed)} {
		if err := p.VerifyReceipt(ctx, tok, b); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("another object: %v", err)
		}
	}
}

// TestObjectShape: fields in another order, twice, too few or too many, and long
// forms of a length, are no status.
func TestObjectShape(t *testing.T) {
	tok, p := samplePackage(t)
	v := p.Manifest.Image.From
	f := [][]byte{field(0x92, 1), field(0x82, 0, 0, 0, 7), field(0x93, 0xE0), field(0x87, v[:]...), field(0x88, 0, 0, 0, 2), field(0x94, 0)}
	if _, err := update.ParseStatus(object(t, tok, p, 0xE5, f...)); err != nil {
		t.Fatal(err)
	}
	with := func(change func(g [][]byte) [][]byte) []byte {
		return object(t, tok, p, 0xE5, change(append([][]byte{}, f...))...)
	}
	good := object(t, tok, p, 0xE5, f...)
	for name, b := range map[string][]byte{
		"swapped fields":  with(func(g [][]byte) [][]byte { g[0], g[1] = g[1], g[0]; return g }),
		"a field less":    with(func(g [][]byte) [][]byte { return g[:5] }),
		"a field more":    with(func(g [][]byte) [][]byte { return append(g, field(0x95, 0)) }),
		"a field twice":   with(func(g [][]byte) [][]byte { return append(g[:5], g[4]) }),
		"state of 2":      with(func(g [][]byte) [][]byte { g[0] = field(0x92, 0, 1); return g }),
		"no state":        with(func(g [][]byte) [][]byte { g[0] = field(0x92); return g }),
		"sequence of 3":   with(func(g [][]byte) [][]byte { g[1] = field(0x82, 0, 0, 7); return g }),
		"version of 7":    with(func(g [][]byte) [][]byte { g[3] = field(0x87, v[:7]...); return g }),
		"counter of 5":    with(func(g [][]byte) [][]byte { g[4] = field(0x88, 0, 0, 0, 0, 2); return g }),
		"another tag":     object(t, tok, p, 0xE6, f...),
		"MAC of 8":        append(good[:len(good)-18:len(good)-18], field(0x8E, make([]byte, 8)...)...),
		"two MACs":        append(bytes.Clone(good), field(0x8E, make([]byte, 16)...)...),
		"MAC first":       append(bytes.Clone(good[len(good)-18:]), good[:len(good)-18]...),
		"long length":     append([]byte{0xE5, 0x81, good[1]}, good[2:]...),
		"nothing":         nil,
		"only the header": {0xE5},
	} {
		if _, err := update.ParseStatus(b); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMissing(t *testing.T) {
	tok, p := samplePackage(t)
	for _, c := range []struct {
		name   string
		state  update.CardState
		n      int
		bitmap []byte
		want   []int
		ok     bool
	}{
		{"all of eight", update.Staging, 8, []byte{0xFF}, []int{1, 2, 3, 4, 5, 6, 7, 8}, true},
		{"all of nine", update.Staging, 9, []byte{0xFF, 0x80}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, true},
		{"none", update.Staging, 9, []byte{0, 0}, nil, true},
		{"the last", update.Staging, 9, []byte{0, 0x80}, []int{9}, true},
		{"first and third", update.Staging, 3, []byte{0xA0}, []int{1, 3}, true},
		{"a chunk too many", update.Staging, 3, []byte{0xB0}, nil, false},
		{"a ninth of eight", update.Staging, 8, []byte{0xFF, 0x80}, nil, false},
		{"too short", update.Staging, 9, []byte{0xFF}, nil, false},
		{"too long", update.Staging, 8, []byte{0xFF, 0}, nil, false},
		{"no bitmap", update.Staging, 1, nil, nil, false},
		{"not staging", update.Pending, 8, []byte{0xFF}, nil, false},
		{"idle", update.Idle, 8, nil, nil, false},
		{"one chunk", update.Staging, 1, []byte{0x80}, []int{1}, true},
	} {
		s, err := update.ParseStatus(status(t, tok, p, c.state, c.bitmap...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Missing(c.n)
		if (err == nil) != c.ok || err != nil && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestAccepts(t *testing.T) {
	tok, p := samplePackage(t)
	s, err := update.ParseStatus(status(t, tok, p, update.Idle))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*update.Image)
		want   fault.Code
	}{
		{"as it is", func(*update.Image) {}, fault.OK},
		{"the same counter", func(im *update.Image) { im.Counter = 2 }, fault.OK},
		{"a lower counter", func(im *update.Image) { im.Counter = 1 }, fault.Downgrade},
		{"another version", func(im *update.Image) { im.From[7]++ }, fault.VersionMismatch},
		{"both", func(im *update.Image) { im.From[0]++; im.Counter = 0 }, fault.VersionMismatch},
	} {
		im := p.Manifest.Image
		c.change(&im)
		if got := fault.CodeOf(s.Accepts(im)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
