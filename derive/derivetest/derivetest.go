// Package derivetest computes derivations over plain keys, so that published
// vectors run without PKCS#11. Tests import it and nothing else may: it is the
// one place where derived keys are values in Go memory.
package derivetest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

// Token is a derive.TDEAToken, derive.Wrapper and derive.Agreer over plain root keys.
type Token struct {
	mu    sync.Mutex
	roots map[string][]byte
	Calls int // token operations so far, guarded by mu
}

// Add makes a root key of this value and class and returns its reference.
func (t *Token) Add(label string, alg key.Algorithm, class derive.Class, value []byte) *derive.Key {
	t.put(label, value)
	return derive.FromRoot(derive.Root{Label: label, Algorithm: alg, Class: class, KCV: KCV(alg, value)})
}

func (t *Token) put(label string, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.roots == nil {
		t.roots = map[string][]byte{}
	}
	t.roots[label] = value
}

// Value computes the value of a key. Only tests may ask.
func (t *Token) Value(k *derive.Key) []byte {
	if k.Parent() == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.roots[k.Root().Label]
	}
	if c := k.Parent().Class(); !c.Derives() {
		panic(fmt.Sprintf("derivetest: a key of class %d derives", c))
	}
	s := k.Step()
	return t.output(k.Parent(), s)[:s.Algorithm.Size()]
}

func (t *Token) output(base *derive.Key, s derive.Step) []byte {
	if (s.Function == derive.X963) != (base.Class() == derive.Agreed) {
		panic("derivetest: what was agreed on, and it alone, derives by X963")
	}
	if s.Function == derive.X963 {
		return X963(t.Value(base), s.After, int(s.Offset)+s.Algorithm.Size())[s.Offset:]
	}
	alg := base.Algorithm()
	block := Cipher(alg, t.Value(base))
	var out []byte
	for _, m := range s.Inputs(alg) {
		switch s.Function {
		case derive.CMACCounter:
			out = append(out, CMAC(block, m, 1)...)
		case derive.CMACTwoBlocks:
			out = append(out, CMAC(block, m, 2)...)
		case derive.ECB:
			enc := make([]byte, len(m))
			for i := 0; i < len(m); i += block.BlockSize() {
				block.Encrypt(enc[i:], m[i:])
			}
			out = append(out, enc...)
		case derive.XOR:
			if !s.Counts() {
				panic("derivetest: an exclusive or that no token makes")
			}
			v := bytes.Clone(t.Value(base))
			subtle.XORBytes(v, v, m)
			out = append(out, v...)
		case derive.CBC:
			enc := make([]byte, len(m))
			cipher.NewCBCEncrypter(block, make([]byte, block.BlockSize())).CryptBlocks(enc, m)
			out = append(out, enc...)
		}
	}
	return out
}

func (t *Token) use(k *derive.Key, classes ...derive.Class) cipher.Block {
	for _, c := range classes {
		if k.Class() == c {
			t.mu.Lock()
			t.Calls++
			t.mu.Unlock()
			return Cipher(k.Algorithm(), t.Value(k))
		}
	}
	panic(fmt.Sprintf("derivetest: a key of class %d used as one of %v", k.Class(), classes))
}

// MAC implements derive.Token.
func (t *Token) MAC(_ context.Context, k *derive.Key, message []byte) ([]byte, error) {
	return CMAC(t.use(k, derive.SessionMAC), message, 1), nil
}

// Encrypt implements derive.Token.
func (t *Token) Encrypt(_ context.Context, k *derive.Key, data []byte) ([]byte, error) {
	b := t.use(k, derive.SessionENC, derive.PackageENC)
	out := make([]byte, len(data))
	cipher.NewCBCEncrypter(b, make([]byte, b.BlockSize())).CryptBlocks(out, data)
	return out, nil
}

// Decrypt implements derive.Token.
func (t *Token) Decrypt(_ context.Context, k *derive.Key, iv, data []byte) ([]byte, error) {
	if k.Algorithm().TDEA() {
		return nil, errors.New("derivetest: no protocol decrypts with a 3DES key")
	}
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(t.use(k, derive.SessionENC), iv).CryptBlocks(out, data)
	return out, nil
}

// RetailMAC implements derive.TDEAToken, with DES itself under the left half.
func (t *Token) RetailMAC(_ context.Context, k derive.RetailKey, message []byte) ([]byte, error) {
	t.use(k.Left(), derive.SessionRetailLeft)
	whole := t.use(k.Whole(), derive.SessionRetail)
	if len(message) == 0 || len(message)%8 != 0 {
		return nil, fmt.Errorf("derivetest: the retail MAC takes whole blocks, not %d bytes", len(message))
	}
	single, err := des.NewCipher(t.Value(k.Left())[:8])
	if err != nil {
		return nil, err
	}
	x := make([]byte, 8)
	for ; len(message) > 8; message = message[8:] {
		subtle.XORBytes(x, x, message[:8])
		single.Encrypt(x, x)
	}
	subtle.XORBytes(x, x, message)
	whole.Encrypt(x, x)
	return x, nil
}

// Matches implements derive.Token.
func (t *Token) Matches(_ context.Context, base *derive.Key, s derive.Step, value []byte) (bool, error) {
	t.use(base, derive.Static)
	out := t.output(base, s)
	if len(value) == 0 || len(value) > len(out) {
		return false, fmt.Errorf("derivetest: %d bytes cannot be compared with a derived value of %d", len(value), len(out))
	}
	return subtle.ConstantTimeCompare(out[:len(value)], value) == 1, nil
}

// Challenge implements derive.Challenger.
func (t *Token) Challenge(_ context.Context, base *derive.Key, s derive.Step) ([]byte, error) {
	t.use(base, derive.Static)
	n := s.Challenge()
	if n == 0 {
		return nil, errors.New("derivetest: this derivation does not give a card challenge")
	}
	return t.output(base, s)[:n], nil
}

// Release implements derive.Token.
func (t *Token) Release(...*derive.Key) {}

// Wrap implements derive.Wrapper.
func (t *Token) Wrap(_ context.Context, dek, k *derive.Key) ([]byte, error) {
	b := t.use(dek, derive.DataEncryption)
	v := t.Value(k)
	if dek.Algorithm().TDEA() {
		out := make([]byte, len(v))
		for i := 0; i < len(v); i += 8 {
			b.Encrypt(out[i:], v[i:])
		}
		return out, nil
	}
	padded := append(append([]byte{}, v...), make([]byte, (16-len(v)%16)%16)...)
	out := make([]byte, len(padded))
	cipher.NewCBCEncrypter(b, make([]byte, 16)).CryptBlocks(out, padded)
	return out, nil
}

// KCV implements derive.Wrapper.
func (t *Token) KCV(_ context.Context, k *derive.Key) (key.KCV, error) {
	return KCV(k.Algorithm(), t.Value(k)), nil
}

// KCV computes the key check value of a plain key by its algorithm's method.
func KCV(alg key.Algorithm, value []byte) key.KCV {
	b := Cipher(alg, value)
	in := make([]byte, b.BlockSize())
	if !alg.TDEA() {
		for i := range in {
			in[i] = 1
		}
	}
	b.Encrypt(in, in)
	return key.KCV{Method: key.MethodFor(alg), Value: apdu.Hex(in[:3])}
}

// Cipher returns the block cipher of a plain key; a 16-byte 3DES key is K1|K2|K1.
func Cipher(alg key.Algorithm, value []byte) cipher.Block {
	var b cipher.Block
	var err error
	if alg.TDEA() {
		full := append(append([]byte{}, value...), value[:24-len(value)]...)
		b, err = des.NewTripleDESCipher(full)
	} else {
		b, err = aes.NewCipher(value)
	}
	if err != nil {
		panic(err)
	}
	return b
}

// CMAC computes [SP 800-38B] CMAC over a message padded to at least this many
// blocks.
func CMAC(b cipher.Block, message []byte, blocks int) []byte {
	n := b.BlockSize()
	head, last, padded := derive.LastBlock(message, n, blocks)
	sub := make([]byte, n)
	b.Encrypt(sub, sub)
	derive.Double(sub)
	if padded {
		derive.Double(sub)
	}
	x := make([]byte, n)
	for i := 0; i < len(head); i += n {
		subtle.XORBytes(x, x, head[i:i+n])
		b.Encrypt(x, x)
	}
	subtle.XORBytes(x, x, last)
	subtle.XORBytes(x, x, sub)
	b.Encrypt(x, x)
	return x
}
