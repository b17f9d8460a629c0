package derivetest

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"cardkms/derive"
	"cardkms/kms/key"
)

// Ephemeral implements derive.Agreer.
func (t *Token) Ephemeral(_ context.Context, token string) (*derive.Key, *ecdh.PublicKey, error) {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return t.volatile(token, key.ECP256, derive.Agreeing, k.Bytes()), k.PublicKey(), nil
}

// AddPair makes an Agreeing key of this value.
func (t *Token) AddPair(k *ecdh.PrivateKey) *derive.Key {
	return t.volatile("", key.ECP256, derive.Agreeing, k.Bytes())
}

// AddRootPair makes an Agreeing key of this value that lives in the token.
func (t *Token) AddRootPair(label string, k *ecdh.PrivateKey) *derive.Key {
	t.put(label, k.Bytes())
	return derive.FromRoot(derive.Root{Label: label, Algorithm: key.ECP256, Class: derive.Agreeing, KCV: derive.PairKCV(k.PublicKey())})
}

var volatiles atomic.Int64

func (t *Token) volatile(token string, alg key.Algorithm, class derive.Class, value []byte) *derive.Key {
	label := fmt.Sprintf("volatile-%d", volatiles.Add(1))
	t.put(label, value)
	return derive.FromRoot(derive.Root{Token: token, Label: label, Algorithm: alg, Class: class, Volatile: true})
}

// Agree implements derive.Agreer.
func (t *Token) Agree(_ context.Context, ours [2]*derive.Key, peers [2]*ecdh.PublicKey) (*derive.Key, error) {
	var z []byte
	for i, k := range ours {
		if k.Class() != derive.Agreeing {
			panic(fmt.Sprintf("derivetest: a key of class %d agrees", k.Class()))
		}
		private, err := ecdh.P256().NewPrivateKey(t.Value(k))
		if err != nil {
			return nil, err
		}
		shared, err := private.ECDH(peers[i])
		if err != nil {
			return nil, err
		}
		z = append(z, shared...)
	}
	return t.volatile(ours[0].Token(), "", derive.Agreed, z), nil
}

// X963 computes the first bytes of the key derivation function of [X9.63] ANSI
// X9.63-2011, Section 5.6.3, with SHA-256.
func X963(z, sharedInfo []byte, bytes int) (out []byte) {
	for n := uint32(1); len(out) < bytes; n++ {
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(slices.Clone(z), n), sharedInfo...))
		out = append(out, sum[:]...)
	}
	return out[:bytes]
}
