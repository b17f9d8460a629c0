package update

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"hash/crc32"

	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Version of a card operating system: major 1, minor 1, revision 2 and build 4
// bytes, compared only for equality.
type Version [8]byte

// Image is what the service knows of a COS image beside its content.
type Image struct {
	Class     [16]byte // UUID of the card product
	Component []byte   // AID, 5 to 16 bytes
	From, To  Version  // the version that the image replaces, and the one it installs
	Counter   uint32   // security counter: never falls on a card
	Size      uint32   // bytes, at least 1
	SHA256    [32]byte
	CRC32     uint32 // IEEE 802.3
}

// Check refuses impossible values.
func (im Image) Check() error {
	if n := len(im.Component); n < 5 || n > 16 {
		return fault.New(fault.InvalidInput, "an image's component is an AID of 5 to 16 bytes")
	}
	if im.Size == 0 {
		return fault.New(fault.InvalidInput, "an image is not empty")
	}
	return nil
}

// Statement returns what a release key signs: the ASCII text
// "cardkms image statement v1", a zero byte, and E8 L { 83 | 85 | 86 | 87 | 88 |
// 89 | 8A | 8B } with the fields of the manifest. Two images that differ have
// different statements.
func (im Image) Statement() []byte {
	return apdu.AppendTLV([]byte("cardkms image statement v1\x00"), 0xE8, im.fields(nil, false))
}

// fields appends the image's fields in the manifest's order.
func (im Image) fields(dst []byte, withCard bool, card ...byte) []byte {
	dst = apdu.AppendTLV(dst, 0x83, im.Class[:])
	if withCard {
		dst = apdu.AppendTLV(dst, 0x84, card)
	}
	dst = apdu.AppendTLV(dst, 0x85, im.Component)
	dst = apdu.AppendTLV(dst, 0x86, im.From[:])
	dst = apdu.AppendTLV(dst, 0x87, im.To[:])
	dst = apdu.AppendTLV(dst, 0x88, be32(im.Counter))
	dst = apdu.AppendTLV(dst, 0x89, be32(im.Size))
	dst = apdu.AppendTLV(dst, 0x8A, im.SHA256[:])
	return apdu.AppendTLV(dst, 0x8B, be32(im.CRC32))
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be16(v int) []byte    { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

// VerifySignature checks a release key's signature over the statement: Ed25519,
// or ECDSA P-256 in ASN.1 over its SHA-256. public is an ed25519.PublicKey or an
// *ecdsa.PublicKey; a key of another size or curve verifies nothing.
func (im Image) VerifySignature(public any, sig []byte) error {
	ok := false
	switch k := public.(type) {
	case ed25519.PublicKey:
		// ed25519.Verify panics on a key of another length.
		ok = len(k) == ed25519.PublicKeySize && ed25519.Verify(k, im.Statement(), sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(im.Statement())
		ok = k != nil && k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], sig)
	}
	if !ok {
		return fault.New(fault.ImageUnverified, "the release signature does not verify")
	}
	return nil
}

// Content checks an image's content while it streams past.
type Content struct {
	sha  hash.Hash
	crc  hash.Hash32
	size int64
}

// NewContent starts with no bytes seen.
func NewContent() *Content { return &Content{sha: sha256.New(), crc: crc32.NewIEEE()} }

// Write never fails.
func (c *Content) Write(p []byte) (int, error) {
	_, _ = c.sha.Write(p)
	_, _ = c.crc.Write(p)
	c.size += int64(len(p))
	return len(p), nil
}

// Size returns the number of bytes seen.
func (c *Content) Size() int64 { return c.size }

// Fill sets the size and both digests of an image to what was seen.
func (c *Content) Fill(im *Image) {
	im.Size, im.CRC32 = uint32(c.size), c.crc.Sum32()
	c.sha.Sum(im.SHA256[:0])
}

// Check compares what was seen with what the image says of itself.
func (c *Content) Check(im Image) error {
	var got Image
	c.Fill(&got)
	if c.size != int64(im.Size) || got.CRC32 != im.CRC32 || subtle.ConstantTimeCompare(got.SHA256[:], im.SHA256[:]) != 1 {
		return fault.New(fault.ImageUnverified, "the content is not what the image's size, SHA-256 and CRC-32 say")
	}
	return nil
}
