package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// ErrCosignature: the witness did not cosign this checkpoint.
var ErrCosignature = errors.New("audit: the checkpoint is not cosigned by the witness")

const (
	timestampBytes   = 8
	cosignatureBytes = timestampBytes + ed25519.SignatureSize
)

// NewCosigner returns a signer of cosignatures: each says that the witness saw no
// larger checkpoint of the log at the time that now returned ([tlog-cosignature]).
func NewCosigner(name string, privateKey ed25519.PrivateKey, now func() time.Time) (note.Signer, error) {
	if len(privateKey) != ed25519.PrivateKeySize {
		return nil, ErrKey
	}
	sign := func(msg []byte) ([]byte, error) { return ed25519.Sign(privateKey, msg), nil }
	return NewRemoteCosigner(name, privateKey.Public().(ed25519.PublicKey), now, sign)
}

// NewRemoteCosigner is NewCosigner for a private key that lives elsewhere. sign returns
// the signature over a message, 64 bytes, which is verified before it is used.
func NewRemoteCosigner(name string, publicKey ed25519.PublicKey, now func() time.Time, sign func(message []byte) ([]byte, error)) (note.Signer, error) {
	k, err := newCosignerKey(name, publicKey)
	if err != nil {
		return nil, err
	}
	return &signer{k, func(msg []byte) ([]byte, error) {
		seconds := now().Unix()
		if seconds < 0 {
			return nil, errors.New("audit: the witness's clock is before 1970")
		}
		sig, err := sign(cosignedMessage(uint64(seconds), msg))
		if err != nil {
			return nil, err
		}
		return append(binary.BigEndian.AppendUint64(nil, uint64(seconds)), sig...), nil
	}}, nil
}

// CosignerKey returns the verifier key of a witness, name+id+base64(04 | key).
func CosignerKey(name string, publicKey ed25519.PublicKey) (string, error) {
	k, err := newCosignerKey(name, publicKey)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

// newCosignerKey computes the key id as SHA-256(name | 0A | 04 | key)[:4]
// ([tlog-cosignature], Format).
func newCosignerKey(name string, publicKey ed25519.PublicKey) (*key, error) {
	if !validKeyName(name) || len(publicKey) != ed25519.PublicKeySize {
		return nil, ErrKey
	}
	encoded := append([]byte{typeCosignature}, publicKey...)
	verify := func(msg, sig []byte) bool {
		if len(sig) != cosignatureBytes {
			return false
		}
		seconds := binary.BigEndian.Uint64(sig)
		return seconds <= math.MaxInt64 && ed25519.Verify(publicKey, cosignedMessage(seconds, msg), sig[timestampBytes:])
	}
	return &key{name, keyID([]byte(name+"\n"), encoded), encoded, verify}, nil
}

// cosignedMessage is what an Ed25519 cosignature signs ([tlog-cosignature],
// Ed25519 signed message).
func cosignedMessage(seconds uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", seconds), text...)
}

// CosignatureTime verifies the witness's cosignature of a checkpoint and returns
// its time, to the second. witness is NewVerifier's for a key of type 04. Whether
// the note is the log's is OpenCheckpoint's to check.
func CosignatureTime(checkpoint []byte, witness note.Verifier) (time.Time, error) {
	if !IsCosigner(witness) {
		return time.Time{}, ErrKey
	}
	n, err := openNote(checkpoint, witness)
	if errors.Is(err, ErrSignature) {
		return time.Time{}, fmt.Errorf("%w %s", ErrCosignature, witness.Name())
	}
	if err != nil {
		return time.Time{}, err
	}
	raw, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(raw) != 4+cosignatureBytes {
		panic("audit: a cosignature verifies and has another length")
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC(), nil
}

// IsCosigner reports whether a verifier is a witness's: NewVerifier's for a key
// of type 04. A log's signature carries no time and a witness's is no log's.
func IsCosigner(v note.Verifier) bool {
	k, ours := v.(*key)
	return ours && k.encoded[0] == typeCosignature
}

// CosignerPublicKey returns the public key of a witness's verifier.
func CosignerPublicKey(v note.Verifier) (ed25519.PublicKey, error) {
	if !IsCosigner(v) {
		return nil, ErrKey
	}
	return ed25519.PublicKey(v.(*key).encoded[1:]), nil
}
