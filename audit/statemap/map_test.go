package statemap_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cardkms/audit/statemap"
)

// rootOf computes the root from all buckets at once, from the bottom, as the package
// comment says.
func rootOf(buckets map[int]statemap.Digest) statemap.Digest {
	row := make([]statemap.Digest, statemap.Buckets)
	for i, d := range buckets {
		row[i] = d
	}
	for len(row) > 1 {
		above := make([]statemap.Digest, len(row)/16)
		for i := range above {
			node, empty := []byte{1}, true
			for _, d := range row[16*i : 16*i+16] {
				node = append(node, d[:]...)
				empty = empty && d == statemap.Digest{}
			}
			if !empty {
				above[i] = sha256.Sum256(node)
			}
		}
		row = above
	}
	return row[0]
}

// TestMap: whatever the order of changes, the root is that of what holds now, and
// an older map stays as it was.
func TestMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m statemap.Map
		now := map[int]statemap.Digest{}
		for range rapid.IntRange(0, 20).Draw(t, "changes") {
			// Few buckets, near to each other and far, so that nodes are shared and emptied.
			bucket := rapid.SampledFrom([]int{0, 1, 15, 16, 255, 256, 4096, 65535}).Draw(t, "bucket")
			d := statemap.Digest{rapid.ByteRange(0, 3).Draw(t, "digest")} // zero empties it
			older, root := m, m.Root()
			m = m.With(bucket, d)
			now[bucket] = d
			if older.Root() != root {
				t.Fatal("a map changed")
			}
			if m.Bucket(bucket) != d {
				t.Fatalf("bucket %d is not what was put there", bucket)
			}
		}
		if m.Root() != rootOf(now) {
			t.Fatalf("the root is not that of %v", now)
		}
		for bucket, d := range now {
			if m.Bucket(bucket) != d {
				t.Fatalf("bucket %d was lost", bucket)
			}
		}
	})
}

// TestBucket: a bucket is the set of its last entries, and has one encoding.
func TestBucket(t *testing.T) {
	names := rapid.Custom(func(t *rapid.T) statemap.Name {
		part := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 2, -1)
		return statemap.Name{Kind: part.Draw(t, "kind"), Issuer: part.Draw(t, "issuer"), ID: part.Draw(t, "id")}
	})
	rapid.Check(t, func(t *rapid.T) {
		b := statemap.Bucket{Version: rapid.Int64Range(1, 9).Draw(t, "version")}
		last := map[statemap.Name]statemap.Entry{}
		for range rapid.IntRange(1, 12).Draw(t, "entries") {
			e := statemap.Entry{Name: names.Draw(t, "name"), Version: rapid.Int64Range(0, 1<<40).Draw(t, "n"), Digest: statemap.Digest{rapid.Byte().Draw(t, "digest")}}
			older := b.Encode()
			next := b.With(e)
			if !bytes.Equal(b.Encode(), older) {
				t.Fatal("a bucket changed")
			}
			b, last[e.Name] = next, e
		}
		if len(b.Entries) != len(last) {
			t.Fatalf("%d entries, want %d", len(b.Entries), len(last))
		}
		for n, e := range last {
			if have, ok := b.Find(n); !ok || have != e {
				t.Fatalf("%+v is not in the bucket", e)
			}
		}
		if _, ok := b.Find(statemap.Name{Kind: "c"}); ok {
			t.Fatal("a name that is not there was found")
		}
		parsed, err := statemap.ParseBucket(b.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, parsed); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestNamesDoNotMeet: no two rows have one content digest, however their strings are
// divided.
func TestNamesDoNotMeet(t *testing.T) {
	seen := map[statemap.Digest]string{}
	for _, n := range []statemap.Name{{"a", "b", "c"}, {"ab", "", "c"}, {"", "ab", "c"}, {"a", "bc", ""}, {"abc", "", ""}} {
		for version := range int64(3) {
			for _, body := range []string{"", "c", "bc"} {
				d := statemap.ContentDigest(n, version, []byte(body))
				what := fmt.Sprint(n, version, body)
				if other, ok := seen[d]; ok {
					t.Errorf("%s and %s have one digest", what, other)
				}
				seen[d] = what
			}
		}
	}
}

func FuzzParseBucket(f *testing.F) {
	two := statemap.Bucket{Version: 1, Entries: []statemap.Entry{
		{Name: statemap.Name{Kind: "card", Issuer: "acme", ID: "1"}, Version: 1}, {Name: statemap.Name{Kind: "card", Issuer: "acme", ID: "2"}, Version: 2},
	}}
	encoded := two.Encode()
	half := len(encoded[8:]) / 2
	f.Add(encoded)
	f.Add(encoded[:len(encoded)-1])
	f.Add(append(bytes.Clone(encoded[:8]), append(bytes.Clone(encoded[8+half:]), encoded[8:8+half]...)...)) // descending
	f.Add(append(bytes.Clone(encoded), encoded[8+half:]...))                                                // twice
	f.Add(make([]byte, 8))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		b, err := statemap.ParseBucket(encoded)
		if err != nil {
			if !errors.Is(err, statemap.ErrBucket) {
				t.Errorf("error %v", err)
			}
			return
		}
		if !bytes.Equal(b.Encode(), encoded) {
			t.Errorf("%X is encoded as %X", encoded, b.Encode())
		}
	})
}
