package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of [signed-note].
const (
	typeEd25519     = 0x01
	typeECDSA       = 0x02
	typeCosignature = 0x04
)

// ErrKey: not a key, or not a name, that this package can sign or verify with.
var ErrKey = errors.New("audit: not a usable verifier key")

// key is the public half of a log or witness key: enough to verify, and to check
// what a token returned.
type key struct {
	name    string
	id      uint32
	encoded []byte // type | key
	verify  func(msg, sig []byte) bool
}

func (k *key) Name() string                { return k.name }
func (k *key) KeyHash() uint32             { return k.id }
func (k *key) Verify(msg, sig []byte) bool { return k.verify(msg, sig) }

// signer adds the private half, which lives elsewhere.
type signer struct {
	*key
	sign func(msg []byte) ([]byte, error)
}

// Sign has the private half sign and verifies the result, so that a faulty token never
// publishes a checkpoint that nobody can check.
func (s *signer) Sign(msg []byte) ([]byte, error) {
	sig, err := s.sign(msg)
	if err != nil {
		return nil, err
	}
	if !s.verify(msg, sig) {
		return nil, errors.New("audit: the signature that was made does not verify under the public key")
	}
	return sig, nil
}

// NewSigner returns a signer of notes whose Ed25519 private key lives elsewhere,
// such as in a PKCS#11 token. sign returns the signature over msg, 64 bytes.
func NewSigner(name string, publicKey ed25519.PublicKey, sign func(msg []byte) ([]byte, error)) (note.Signer, error) {
	k, err := newKey(name, publicKey)
	if err != nil {
		return nil, err
	}
	return &signer{k, sign}, nil
}

// NewECDSASigner is NewSigner for ECDSA P-256. sign gets the SHA-256 digest of
// the message, 32 bytes, and returns r and s, 32 bytes each, as CKM_ECDSA does.
func NewECDSASigner(name string, publicKey *ecdsa.PublicKey, sign func(digest []byte) ([]byte, error)) (note.Signer, error) {
	k, err := newKey(name, publicKey)
	if err != nil {
		return nil, err
	}
	return &signer{k, func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		raw, err := sign(digest[:])
		if err != nil {
			return nil, err
		}
		return ecdsaDER(raw)
	}}, nil
}

// ecdsaDER turns the token's r | s into the ASN.1 that [signed-note] asks for.
func ecdsaDER(raw []byte) ([]byte, error) {
	if len(raw) != 64 {
		return nil, fmt.Errorf("audit: an ECDSA P-256 signature of %d bytes", len(raw))
	}
	r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}

// VerifierKey returns the verifier key name+id+base64(type | key) of an Ed25519
// or ECDSA P-256 public key: what auditors are given once and keep.
func VerifierKey(name string, publicKey crypto.PublicKey) (string, error) {
	k, err := newKey(name, publicKey)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

// String returns the verifier key.
func (k *key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(k.encoded))
}

// NewVerifier returns the verifier for a verifier key: a log's, of type 01 or 02,
// or a witness's, of type 04.
func NewVerifier(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	id, encoded64, _ := strings.Cut(rest, "+")
	want, err1 := strconv.ParseUint(id, 16, 32)
	encoded, err2 := base64.StdEncoding.DecodeString(encoded64)
	if err1 != nil || err2 != nil || len(id) != 8 || len(encoded) < 2 {
		return nil, ErrKey
	}
	k, err := decodeKey(name, encoded)
	if err != nil || string(k.encoded) != string(encoded) || k.id != uint32(want) {
		return nil, ErrKey
	}
	return k, nil
}

func decodeKey(name string, encoded []byte) (*key, error) {
	switch encoded[0] {
	case typeEd25519:
		return newKey(name, ed25519.PublicKey(encoded[1:]))
	case typeCosignature:
		return newCosignerKey(name, encoded[1:])
	case typeECDSA:
		k, err := x509.ParsePKIXPublicKey(encoded[1:])
		if err != nil {
			return nil, ErrKey
		}
		return newKey(name, k)
	}
	return nil, ErrKey
}

// newKey returns a log's key. The key id is SHA-256(name | 0A | encoding)[:4] for
// Ed25519 and SHA-256(SPKI)[:4] for ECDSA ([signed-note]).
func newKey(name string, publicKey crypto.PublicKey) (*key, error) {
	if !validKeyName(name) {
		return nil, ErrKey
	}
	switch pub := publicKey.(type) {
	case ed25519.PublicKey:
		if len(pub) != ed25519.PublicKeySize {
			return nil, ErrKey
		}
		encoded := append([]byte{typeEd25519}, pub...)
		verify := func(msg, sig []byte) bool { return ed25519.Verify(pub, msg, sig) }
		return &key{name, keyID([]byte(name+"\n"), encoded), encoded, verify}, nil
	case *ecdsa.PublicKey:
		if pub == nil || pub.Curve != elliptic.P256() {
			return nil, ErrKey
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, ErrKey
		}
		verify := func(msg, sig []byte) bool {
			digest := sha256.Sum256(msg)
			return ecdsa.VerifyASN1(pub, digest[:], sig)
		}
		return &key{name, keyID(nil, spki), append([]byte{typeECDSA}, spki...), verify}, nil
	}
	return nil, ErrKey
}

func keyID(prefix, encoded []byte) uint32 {
	sum := sha256.Sum256(append(prefix, encoded...))
	return binary.BigEndian.Uint32(sum[:])
}

// validKeyName accepts what [signed-note] allows: not empty, no space, no plus.
func validKeyName(name string) bool {
	return validLine(name) && !strings.Contains(name, "+") && strings.IndexFunc(name, unicode.IsSpace) < 0
}
