package statemap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Digest is a SHA-256 digest; of nothing it is zero.
type Digest [Size]byte

// Buckets is the number of buckets.
const Buckets = 1 << 16

// ErrBucket: bytes that are not the encoding of a bucket.
var ErrBucket = errors.New("statemap: not the encoding of a bucket")

// Name names a row. Kind and Issuer have at most 255 bytes, ID at most 65,535.
type Name struct{ Kind, Issuer, ID string }

// Count names the entry that counts the rows of n's kind and issuer.
func (n Name) Count() Name { return Name{Kind: n.Kind, Issuer: n.Issuer} }

// Valid reports whether the name can be encoded.
func (n Name) Valid() bool {
	return len(n.Kind) <= 0xFF && len(n.Issuer) <= 0xFF && len(n.ID) <= 0xFFFF
}

func (n Name) append(b []byte) []byte {
	b = append(append(b, byte(len(n.Kind))), n.Kind...)
	b = append(append(b, byte(len(n.Issuer))), n.Issuer...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(n.ID))), n.ID...)
}

// Bucket returns the number of the bucket that holds the row.
func (n Name) Bucket() int {
	h := sha256.Sum256(n.append([]byte("cardkms-bucket/1\n")))
	return int(binary.BigEndian.Uint16(h[:]))
}

// ContentDigest returns the digest of a row without its MAC.
func ContentDigest(n Name, version int64, body []byte) Digest {
	h := sha256.New()
	h.Write([]byte("cardkms-row/1\n"))
	h.Write(binary.BigEndian.AppendUint64(n.append(make([]byte, 0, 96)), uint64(version)))
	h.Write(body)
	return Digest(h.Sum(nil))
}

// RowDigest returns the digest of a row from that of its content and its MAC.
func RowDigest(content Digest, mac []byte) Digest {
	return sha256.Sum256(append(content[:], mac...))
}

// Entry says which version of a row holds, and its digest.
type Entry struct {
	Name
	Version int64
	Digest  Digest
}

// Bucket is a set of entries, ascending by encoded name, with the version of the
// row that holds it.
type Bucket struct {
	Version int64
	Entries []Entry
}

func compare(e Entry, n Name) int { return bytes.Compare(e.append(nil), n.append(nil)) }

// Find returns the entry of a name.
func (b Bucket) Find(n Name) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(b.Entries, n, compare)
	if !ok {
		return Entry{}, false
	}
	return b.Entries[i], true
}

// With returns a bucket in which e replaces the entry of its name.
func (b Bucket) With(e Entry) Bucket {
	i, ok := slices.BinarySearchFunc(b.Entries, e.Name, compare)
	out := Bucket{b.Version, slices.Clone(b.Entries)}
	if ok {
		out.Entries[i] = e
	} else {
		out.Entries = slices.Insert(out.Entries, i, e)
	}
	return out
}

// Encode returns the one encoding.
func (b Bucket) Encode() []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, 8+96*len(b.Entries)), uint64(b.Version))
	for _, e := range b.Entries {
		out = e.Append(out)
	}
	return out
}

// Append appends the encoding of an entry.
func (e Entry) Append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(e.append(b), uint64(e.Version)), e.Digest[:]...)
}

// BucketDigest returns the digest of an encoded bucket.
func BucketDigest(encoded []byte) Digest {
	if len(encoded) == 0 {
		return Digest{}
	}
	h := sha256.New()
	h.Write([]byte{0x00})
	h.Write(encoded)
	return Digest(h.Sum(nil))
}

// ParseBucket returns the bucket with this encoding, or ErrBucket.
func ParseBucket(encoded []byte) (Bucket, error) {
	p := parser{rest: encoded}
	b := Bucket{Version: int64(p.number(8))}
	for len(p.rest) > 0 {
		e := Entry{Name: Name{Kind: p.text(1), Issuer: p.text(1), ID: p.text(2)}, Version: int64(p.number(8))}
		copy(e.Digest[:], p.take(Size))
		last := len(b.Entries) - 1
		if p.failed || e.Version < 0 || last >= 0 && compare(b.Entries[last], e.Name) >= 0 {
			return Bucket{}, ErrBucket
		}
		b.Entries = append(b.Entries, e)
	}
	if p.failed || b.Version < 1 || len(b.Entries) == 0 {
		return Bucket{}, ErrBucket
	}
	return b, nil
}

// parser takes bytes from the front, until there are too few.
type parser struct {
	rest   []byte
	failed bool
}

func (p *parser) take(n int) []byte {
	if n > len(p.rest) {
		p.failed, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) number(size int) (n uint64) {
	for _, b := range p.take(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (p *parser) text(size int) string { return string(p.take(int(p.number(size)))) }
