package update

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Suite says how the package itself is protected.
type Suite byte

// The suites.
const (
	Plain   Suite = 0x00 // by the secure channel only
	AESCMAC Suite = 0x01 // AES-CBC and AES-CMAC under the package's own keys
)

// Bounds of a package. A chunk must fit a chain of 256 STORE DATA commands.
const (
	ChunkBytesMin = 64
	ChunkBytesMax = 4096
	ChunksMax     = 0xFFFF
)

// Manifest describes one package for one card.
type Manifest struct {
	Suite     Suite
	Sequence  uint32
	Card      [10]byte // KDD
	Image     Image
	ChunkSize int
	KVN, Key  byte   // of K-UPD; 0 under suite 00
	Context   []byte // host challenge | card challenge of the opening channel
}

// Chunks returns the number of chunks.
func (m Manifest) Chunks() int { return (int(m.Image.Size) + m.ChunkSize - 1) / m.ChunkSize }

// ChunkRange returns where chunk i, from 1, lies in the image.
func (m Manifest) ChunkRange(i int) (from, to int64) {
	from = int64(i-1) * int64(m.ChunkSize)
	return from, min(from+int64(m.ChunkSize), int64(m.Image.Size))
}

// Check refuses a manifest that no card could use.
func (m Manifest) Check() error {
	if err := m.Image.Check(); err != nil {
		return err
	}
	if m.ChunkSize < ChunkBytesMin || m.ChunkSize > ChunkBytesMax {
		return fault.New(fault.InvalidInput, fmt.Sprintf("a chunk has %d to %d bytes", ChunkBytesMin, ChunkBytesMax))
	}
	if m.Chunks() > ChunksMax {
		return fault.New(fault.InvalidInput, fmt.Sprintf("a package has at most %d chunks", ChunksMax))
	}
	if n := len(m.Context); n != 16 && n != 32 {
		return fault.New(fault.InvalidInput, "the challenges of the opening channel have 16 or 32 bytes together")
	}
	return nil
}

// Encode returns the manifest object: E1 L { fields }, and 8E 10 mac if there is one.
func (m Manifest) Encode(mac []byte) []byte {
	if len(mac) == 0 {
		return m.body()
	}
	return apdu.AppendTLV(m.body(), 0x8E, mac)
}

// body encodes E1 L { fields }.
func (m Manifest) body() []byte {
	f := []byte{0x80, 0x01, 0x01, 0x81, 0x01, byte(m.Suite)}
	f = apdu.AppendTLV(f, 0x82, be32(m.Sequence))
	f = m.Image.fields(f, true, m.Card[:]...)
	f = apdu.AppendTLV(f, 0x8C, be16(m.ChunkSize))
	f = apdu.AppendTLV(f, 0x8D, be16(m.Chunks()))
	f = apdu.AppendTLV(f, 0x8F, []byte{m.KVN, m.Key})
	f = apdu.AppendTLV(f, 0x90, m.Context)
	return apdu.AppendTLV(nil, 0xE1, f)
}

// Keys refers to the keys of one package; both nil under suite 00.
type Keys struct{ ENC, MAC *derive.Key }

// PackageKeys refers to the keys that follow from a card's K-UPD and the context
// of the opening channel.
func PackageKeys(kUPD *derive.Key, context []byte) Keys {
	a := kUPD.Algorithm()
	return Keys{
		ENC: kUPD.Derive(packageStep("CUP1-ENC-KEY", context, derive.PackageENC, a)),
		MAC: kUPD.Derive(packageStep("CUP1-MAC-KEY", context, derive.SessionMAC, a)),
	}
}

func packageStep(label string, context []byte, c derive.Class, a key.Algorithm) derive.Step {
	before := append([]byte(label), 0)
	return derive.Step{
		Function: derive.CMACCounter, Before: binary.BigEndian.AppendUint16(before, uint16(8*a.Size())),
		After: context, Class: c, Algorithm: a,
	}
}

// Package is a manifest with the keys that protect it. It is immutable: one
// context never encrypts two contents.
type Package struct {
	Manifest Manifest
	Keys     Keys
	Encoded  []byte // the manifest object with its MAC
	MAC      []byte // of the manifest, 16 bytes; nil under suite 00
}

// NewPackage encodes a manifest and computes its MAC.
func NewPackage(ctx context.Context, t derive.Token, m Manifest, k Keys) (*Package, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	p := &Package{Manifest: m, Keys: k, Encoded: m.body()}
	if m.Suite == Plain {
		return p, nil
	}
	mac, err := t.MAC(ctx, k.MAC, p.Encoded)
	if err != nil {
		return nil, fmt.Errorf("computing the MAC of a manifest: %w", err)
	}
	p.MAC, p.Encoded = mac, m.Encode(mac)
	return p, nil
}

// OpenPackage takes up a package whose manifest was stored with this MAC, which
// must be the one that NewPackage made, or the answer is fault.Proof().
func OpenPackage(ctx context.Context, t derive.Token, m Manifest, k Keys, mac []byte) (*Package, error) {
	p, err := NewPackage(ctx, t, m, k)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(p.MAC, mac) != 1 {
		return nil, fault.Proof()
	}
	return p, nil
}

// authenticate appends 8E mac over tag | manifest MAC | content to an object.
func (p *Package) authenticate(ctx context.Context, t derive.Token, tag apdu.Tag, content []byte) ([]byte, error) {
	out := apdu.AppendTLV(nil, tag, content)
	if p.Manifest.Suite == Plain {
		return out, nil
	}
	mac, err := p.computeMAC(ctx, t, tag, content)
	if err != nil {
		return nil, err
	}
	return apdu.AppendTLV(out, 0x8E, mac), nil
}

func (p *Package) computeMAC(ctx context.Context, t derive.Token, tag apdu.Tag, content []byte) ([]byte, error) {
	mac, err := t.MAC(ctx, p.Keys.MAC, bytes.Join([][]byte{{byte(tag)}, p.MAC, content}, nil))
	if err != nil {
		return nil, fmt.Errorf("computing the MAC of object %X: %w", tag, err)
	}
	return mac, nil
}

// Commit returns the object that ends the download.
func (p *Package) Commit(ctx context.Context, t derive.Token) ([]byte, error) {
	c := apdu.AppendTLV(nil, 0x82, be32(p.Manifest.Sequence))
	c = apdu.AppendTLV(c, 0x88, be32(p.Manifest.Image.Counter))
	c = apdu.AppendTLV(c, 0x8A, p.Manifest.Image.SHA256[:])
	return p.authenticate(ctx, t, 0xE4, c)
}

// Abort returns the object that makes the card forget the staged package.
func (p *Package) Abort(ctx context.Context, t derive.Token) ([]byte, error) {
	return p.authenticate(ctx, t, 0xE7, apdu.AppendTLV(nil, 0x82, be32(p.Manifest.Sequence)))
}
