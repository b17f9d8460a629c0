package update_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"os"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
	"cardkms/kms/update"
)

var ctx = context.Background()

type octets []byte

func (o *octets) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := hex.DecodeString(s)
	*o = v
	return err
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// content is the image of the vectors: byte j = (7*j + (j >> 8)) & 255.
func content(n int) []byte {
	out := make([]byte, n)
	for j := range out {
		out[j] = byte(7*j + j>>8)
	}
	return out
}

// sampleManifest describes the package of vector self-cup1-0, written out by
// hand.
func sampleManifest() update.Manifest {
	image := content(2500)
	return update.Manifest{
		Suite: update.AESCMAC, Sequence: 7, Card: [10]byte(unhex("00010203040506070809")),
		Image: update.Image{
			Class:     [16]byte(unhex("C3F0E8B06B1D5B7E9A7D2F7C5E1A4B60")),
			Component: unhex("A000000151000000"),
			From:      update.Version(unhex("0100000000000000")),
			To:        update.Version(unhex("0101000000000000")),
			Counter:   3, Size: 2500, SHA256: sha256.Sum256(image), CRC32: crc32.ChecksumIEEE(image),
		},
		ChunkSize: 1024, KVN: 0x5A, Key: 0x01, Context: unhex("00112233445566778899AABBCCDDEEFF"),
	}
}

// kUPD is the update key of the vectors, of 16 or 32 bytes.
func kUPD(tok *derivetest.Token, size int) *derive.Key {
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(0x40 + i)
	}
	a, err := key.AESOfSize(size)
	if err != nil {
		panic(err)
	}
	return tok.Add("K-UPD", a, derive.Static, value)
}

// samplePackage is a package of the sample manifest, changed by each change.
func samplePackage(tb testing.TB, changes ...func(*update.Manifest)) (*derivetest.Token, *update.Package) {
	tb.Helper()
	m := sampleManifest()
	for _, change := range changes {
		change(&m)
	}
	tok := new(derivetest.Token)
	p, err := update.NewPackage(ctx, tok, m, update.PackageKeys(kUPD(tok, 16), m.Context))
	if err != nil {
		tb.Fatal(err)
	}
	return tok, p
}

func plain(m *update.Manifest) { m.Suite, m.KVN, m.Key = update.Plain, 0, 0 }

// object makes a card's answer: tag | fields, and its MAC under the package's
// key. manifestMAC is the last 16 bytes of the encoded manifest.
func object(tb testing.TB, tok *derivetest.Token, p *update.Package, tag apdu.Tag, fields ...[]byte) []byte {
	tb.Helper()
	var inner []byte
	for _, f := range fields {
		inner = append(inner, f...)
	}
	out := apdu.AppendTLV(nil, tag, inner)
	if p.Manifest.Suite == update.Plain {
		return out
	}
	in := append([]byte{byte(tag)}, p.Encoded[len(p.Encoded)-16:]...)
	mac, err := tok.MAC(ctx, p.Keys.MAC, append(in, inner...))
	if err != nil {
		tb.Fatal(err)
	}
	return apdu.AppendTLV(out, 0x8E, mac)
}

func field(tag apdu.Tag, value ...byte) []byte { return apdu.AppendTLV(nil, tag, value) }

// status makes a status object in this state, with a bitmap of missing chunks.
func status(tb testing.TB, tok *derivetest.Token, p *update.Package, state update.CardState, missing ...byte) []byte {
	from := p.Manifest.Image.From
	return object(tb, tok, p, 0xE5, field(0x92, byte(state)), field(0x82, 0, 0, 0, 7), field(0x93, missing...),
		field(0x87, from[:]...), field(0x88, 0, 0, 0, 2), field(0x94, 0))
}

// receipt makes the receipt that a card with the package's image gives.
func receipt(tb testing.TB, tok *derivetest.Token, p *update.Package) []byte {
	to := p.Manifest.Image.To
	return object(tb, tok, p, 0xE6, field(0x92, 5), field(0x87, to[:]...), field(0x88, 0, 0, 0, 3))
}

func readVectors(tb testing.TB, into any) {
	tb.Helper()
	b, err := os.ReadFile("testdata/cup1.json")
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		tb.Fatal(err)
	}
}
