// Package derive says how keys follow from keys, without ever holding one.
//
// A Key is a reference: the root is an object inside a PKCS#11 token, and each
// Step says by which function and public input the next key follows. Nothing is
// computed when a Key is built. A Token computes, inside, when the key is used:
//
//	master ── Step(KDF3, card) ──▶ K-MAC ── Step(SP 800-108, challenges) ──▶ S-MAC ── MAC(message)
//
// Because a Key is a recipe and not a handle, a token may forget the object at
// any time (its store is full, the session was lost, the process restarted) and
// make it again, and a Key may cross a process boundary. Only MACs, cryptograms
// and ciphertexts come back from a Token as bytes; no function here or below
// returns the value of a key.
//
// The sub-packages each follow one document: diversify (card keys from masters),
// scp03, scp02 and scp11 (session keys and secure messaging). derivetest computes the same over
// plain keys, for tests only.
//
// Keys are immutable and may be shared by goroutines.
package derive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"

	"cardkms/kms/key"
)

// Class says what a key may do inside the token, and nothing else.
type Class byte

// The classes. A token turns each into one explicit template.
const (
	// Static keys only derive: masters and the card keys K-ENC, K-MAC, K-UPD.
	Static Class = iota + 1
	// SessionENC encrypts with CBC, and decrypts if it is an AES key: S-ENC.
	SessionENC
	// SessionMAC computes AES-CMAC: S-MAC, S-RMAC and K_mac of a package.
	SessionMAC
	// PackageENC encrypts with AES-CBC and never decrypts: K_enc of a package.
	PackageENC
	// DataEncryption wraps new card keys for PUT KEY: K-DEK.
	DataEncryption
	// Transport is a new card key on its way into a card: it can be wrapped by a
	// DataEncryption key, once, and do nothing else.
	Transport
	// StaticCBC keys only derive, by CBC as well as by ECB: the 3DES card keys of
	// SCP02. Masters are not of this class, because no diversification chains.
	StaticCBC
	// SessionRetail computes the last block of a retail MAC and nothing else, see
	// RetailKey.
	SessionRetail
	// SessionRetailLeft computes the blocks before the last one.
	SessionRetailLeft
	// Agreeing keys are private halves of pairs that agree on secrets and do nothing
	// else, see Agreer.
	Agreeing
	// Agreed secrets only derive, by X963.
	Agreed
)

// Derives reports whether keys of the class are there to derive others.
func (c Class) Derives() bool { return c == Static || c == StaticCBC || c == Agreed }

// Function is the pseudo-random function of a Step.
type Function byte

// The functions.
const (
	// CMACCounter is the counter mode of [SP 800-108] NIST SP 800-108 Revision 1,
	// Section 4.1, with PRF CMAC under AES: output block i is
	// CMAC(K, Before | i | After), i = 1, 2, … as one byte.
	CMACCounter Function = iota + 1
	// CMACTwoBlocks is the variant of [AN10922] NXP AN10922, Section 2: output
	// block i is CMAC(K, Messages[i]) over a message that is always two cipher
	// blocks, the padding of a short one spanning both.
	CMACTwoBlocks
	// ECB encrypts Messages[0], a multiple of the block length, block by block.
	ECB
	// CBC encrypts Messages[0], a multiple of the block length, with a zero IV.
	CBC
	// XOR is the exclusive or of a 3DES key with Messages[0], of the same length, which
	// changes no more than the last two bytes of each part of the key, see Step.Counts.
	XOR
	// X963 is the key derivation function of [X9.63] ANSI X9.63-2011, Section 5.6.3,
	// with SHA-256, of an Agreed secret Z: H(1) | H(2) | …, where H(n) is
	// SHA-256(Z | n as 4 bytes | After). The key is what begins at Offset.
	X963
)

// Step derives one key from another. All its fields are public values.
type Step struct {
	Function      Function
	Before, After []byte   // CMACCounter; After alone, X963
	Messages      [][]byte // CMACTwoBlocks, ECB, CBC, XOR
	Offset        byte     // X963: bytes of the output before the key
	Class         Class
	Algorithm     key.Algorithm // of the derived key
}

// Root names a key object of a token.
type Root struct {
	Token     string // name of the token, where there are several; empty for the main one
	Label     string // CKA_LABEL, unique in the token
	Algorithm key.Algorithm
	Class     Class
	KCV       key.KCV // compared whenever the object is found again
	// Public is the SubjectPublicKeyInfo of a pair in DER, which is compared as well: another
	// pair of the same check value is soon made. Empty where nobody knows it yet.
	Public string
	// Volatile: an object that ends with the library's life, or when it is released, and
	// cannot be made again. Its label is not used twice.
	Volatile bool
}

// Key refers to a key inside a token.
type Key struct {
	root   Root
	parent *Key
	step   Step
	id     [sha256.Size]byte
}

// FromRoot refers to an object of the token.
func FromRoot(r Root) *Key {
	h := sha256.New()
	// Every field counts: an object that was checked as one class or algorithm
	// must not serve a reference to another.
	writeFields(h.Write, []byte("root"), []byte(r.Token), []byte(r.Label), []byte(r.Algorithm), []byte{byte(r.Class)},
		[]byte(r.KCV.Method), []byte(r.KCV.Value), []byte(r.Public), []byte(strconv.FormatBool(r.Volatile)))
	k := &Key{root: r}
	h.Sum(k.id[:0])
	return k
}

// Derive refers to the key that follows from k by s. It costs nothing but a
// hash; the caller must not change the step's slices afterwards.
func (k *Key) Derive(s Step) *Key {
	h := sha256.New()
	fields := append([][]byte{k.id[:], {byte(s.Function), byte(s.Class)}, []byte(s.Algorithm), s.Before, s.After, {s.Offset}}, s.Messages...)
	writeFields(h.Write, fields...)
	child := &Key{parent: k, step: s}
	h.Sum(child.id[:0])
	return child
}

// writeFields hashes fields with their lengths, so that no two lists of fields
// give the same input.
func writeFields(write func([]byte) (int, error), fields ...[]byte) {
	var n [4]byte
	for _, f := range fields {
		binary.BigEndian.PutUint32(n[:], uint32(len(f)))
		_, _ = write(n[:])
		_, _ = write(f)
	}
}

// ID identifies the recipe: equal recipes have equal IDs. It is not secret.
func (k *Key) ID() [sha256.Size]byte { return k.id }

// Parent returns the key that k follows from, nil for a root.
func (k *Key) Parent() *Key { return k.parent }

// Root returns the object that a root refers to.
func (k *Key) Root() Root { return k.root }

// Step returns how k follows from its parent.
func (k *Key) Step() Step { return k.step }

// Token returns the name of the token that computes with the key: that of its root,
// because what is derived stays where it was derived.
func (k *Key) Token() string {
	for k.parent != nil {
		k = k.parent
	}
	return k.root.Token
}

// Class returns what the key may do.
func (k *Key) Class() Class {
	if k.parent == nil {
		return k.root.Class
	}
	return k.step.Class
}

// Algorithm returns the key's type and size.
func (k *Key) Algorithm() key.Algorithm {
	if k.parent == nil {
		return k.root.Algorithm
	}
	return k.step.Algorithm
}

// Token computes with keys that never leave it. Every method derives the keys
// it needs inside the token first, refuses a key of another class, is safe for
// concurrent use, and returns a *fault.Error with TokenUnavailable when the
// token is busy until ctx ends or is lost.
type Token interface {
	// MAC returns the 16 bytes of AES-CMAC over message under a SessionMAC key.
	MAC(ctx context.Context, k *Key, message []byte) ([]byte, error)
	// Encrypt returns CBC with a zero IV over data, a multiple of the cipher's block
	// length, under a SessionENC or PackageENC key.
	Encrypt(ctx context.Context, k *Key, data []byte) ([]byte, error)
	// Decrypt inverts AES-CBC with this IV over data, a multiple of 16 bytes,
	// under a SessionENC key. A 3DES key is refused: no protocol decrypts with one.
	Decrypt(ctx context.Context, k *Key, iv, data []byte) ([]byte, error)
	// Matches reports, in constant time, whether the leading bytes of what s
	// would derive from the Static key base equal value, a public value such as a
	// pseudo-random card challenge of 8 or 16 bytes. It returns no other bytes.
	Matches(ctx context.Context, base *Key, s Step, value []byte) (bool, error)
	// Release has the objects of these keys destroyed, now and not when room is
	// needed, and does not wait for it; nil ones are passed over. A released key may be used again and is then
	// derived again; a volatile root may not.
	Release(keys ...*Key)
}

// Counts reports whether an XOR step changes what a counter of 16 bits can: whoever could
// choose the whole of Messages[0] would have keys that are related as he likes, and a key
// of the token would be one of his choice away from another.
func (s Step) Counts() bool {
	if s.Function != XOR || len(s.Messages) != 1 || len(s.Messages[0]) != s.Algorithm.Size() || !s.Algorithm.TDEA() {
		return false
	}
	for i, b := range s.Messages[0] {
		if i%8 < 6 && b != 0 {
			return false
		}
	}
	return true
}

// Challenger computes the one value of a derivation that is public.
type Challenger interface {
	// Challenge returns what s derives from the Static key base, 8 or 16 bytes. It
	// refuses a step that is not of a card challenge, see Step.Challenge.
	Challenge(ctx context.Context, base *Key, s Step) ([]byte, error)
}

// Challenge returns the length in bytes of the pseudo-random card challenge that a
// step derives, 0 if it derives anything else. It is the only value of a derivation
// that a card sends in clear, so that giving it out tells nothing: [AmdD] Secure
// Channel Protocol '03', Sections 4.1.5 and 6.2.2.1, with label 00*11 | 02, length
// 0040 or 0080, and sequence counter (3) | AID (5 to 16) as context.
func (s Step) Challenge() int {
	const label, bits, contextMin, contextMax = 11, 13, 3 + 5, 3 + 16
	if s.Function != CMACCounter || len(s.Before) != 15 || len(s.After) < contextMin || len(s.After) > contextMax {
		return 0
	}
	n := binary.BigEndian.Uint16(s.Before[bits:])
	if !bytes.Equal(s.Before[:bits], append(make([]byte, label), 0x02, 0x00)) || n != 64 && n != 128 {
		return 0
	}
	return int(n) / 8
}

// Wrapper encrypts new card keys for PUT KEY.
type Wrapper interface {
	// Wrap returns the value of the Transport key k, encrypted under the
	// DataEncryption key dek: AES-CBC with a zero IV, the value zero-padded to a
	// multiple of 16 bytes, or 3DES-ECB.
	Wrap(ctx context.Context, dek, k *Key) ([]byte, error)
	// KCV returns the key check value of k by the method of its algorithm.
	KCV(ctx context.Context, k *Key) (key.KCV, error)
}

// VectorToken is a token that takes keys of known value, for vectors and known answers.
type VectorToken interface {
	TDEAToken
	Wrapper
	Agreer
	// ImportVolatile makes a root key of a known value that ends with forget.
	ImportVolatile(ctx context.Context, label string, a key.Algorithm, c Class, value []byte) (k *Key, forget func(), err error)
}
