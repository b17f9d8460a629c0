package hsm

import (
	"crypto/subtle"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"

	"cardkms/derive"
	"cardkms/kms/key"
)

// oracle remembers E(block) under one key for the first blocks of CMAC inputs:
// E(0) and a few constants. They are secrets of this process, in fixed arrays,
// wiped with the object. See the package comment.
type oracle struct {
	mu    sync.Mutex
	in    [oracleMax][16]byte
	out   [oracleMax][16]byte
	count int
}

// oracleMax bounds the memory: SCP03 needs E(0) and at most nine constants per
// key. Further blocks are computed each time.
const oracleMax = 12

func (o *oracle) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.in, o.out, o.count = [oracleMax][16]byte{}, [oracleMax][16]byte{}, 0
}

func (o *oracle) known(block []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.count {
		if string(o.in[i][:len(block)]) == string(block) {
			return append([]byte{}, o.out[i][:len(block)]...)
		}
	}
	return nil
}

func (o *oracle) learn(block, result []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count < oracleMax {
		copy(o.in[o.count][:], block)
		copy(o.out[o.count][:], result)
		o.count++
	}
}

// lastBlocks returns, for each message, the block X with CMAC(message) = E(X).
// All first blocks that are not known yet, and E(0), cost one call together.
func (t *Token) lastBlocks(s pkcs11.SessionHandle, base *object, messages [][]byte, atLeast int) ([]byte, error) {
	size := derive.BlockSize(base.key.Algorithm())
	zero := make([]byte, size)
	first := [][]byte{zero}
	for _, m := range messages {
		if head, _, _ := derive.LastBlock(m, size, atLeast); len(head) > 0 {
			first = append(first, head[:size])
		}
	}
	enc, err := t.firstBlocks(s, base, first)
	if err != nil {
		return nil, err
	}
	e0, next := enc[0], enc[1:]
	var out []byte
	for _, m := range messages {
		head, last, padded := derive.LastBlock(m, size, atLeast)
		x := subkey(e0, padded)
		subtle.XORBytes(x, x, last)
		if len(head) > 0 {
			chain, err := t.chain(s, base, next[0], head[size:])
			if err != nil {
				return nil, err
			}
			next = next[1:]
			subtle.XORBytes(x, x, chain)
		}
		out = append(out, x...)
	}
	return out, nil
}

// subkey returns K1, or K2 for a padded message, from E(0).
func subkey(e0 []byte, padded bool) []byte {
	k := append([]byte{}, e0...)
	derive.Double(k)
	if padded {
		derive.Double(k)
	}
	return k
}

// firstBlocks returns E of each block, from memory where it is known.
func (t *Token) firstBlocks(s pkcs11.SessionHandle, base *object, blocks [][]byte) ([][]byte, error) {
	out := make([][]byte, len(blocks))
	var ask []byte
	var slots []int
	for i, b := range blocks {
		if out[i] = base.oracle.known(b); out[i] == nil {
			ask, slots = append(ask, b...), append(slots, i)
		}
	}
	if len(slots) == 0 {
		return out, nil
	}
	enc, err := t.encryptBlocks(s, base, ask)
	if err != nil {
		return nil, err
	}
	for n, i := range slots {
		size := len(blocks[i])
		out[i] = enc[n*size : (n+1)*size]
		base.oracle.learn(blocks[i], out[i])
	}
	return out, nil
}

// chain continues a CBC chain from x over the blocks of rest.
func (t *Token) chain(s pkcs11.SessionHandle, base *object, x, rest []byte) ([]byte, error) {
	for n := len(x); len(rest) > 0; rest = rest[n:] {
		in := make([]byte, n)
		subtle.XORBytes(in, x, rest[:n])
		enc, err := t.encryptBlocks(s, base, in)
		if err != nil {
			return nil, err
		}
		x = enc
	}
	return x, nil
}

// encryptBlocks computes E over whole blocks: by C_Encrypt where the key may
// encrypt, else by deriving a readable value from public input.
func (t *Token) encryptBlocks(s pkcs11.SessionHandle, base *object, data []byte) ([]byte, error) {
	a := base.key.Algorithm()
	if t.plan.roleOf(base.key.Class(), a, base.owner == nil).encrypt {
		if err := t.ctx.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_ECB, nil)}, base.handle); err != nil {
			return nil, failed("C_EncryptInit", err)
		}
		out, err := t.ctx.Encrypt(s, data)
		return out, failed("C_Encrypt", err)
	}
	var out []byte
	for len(data) > 0 {
		// NSS softokn refuses more than 32 bytes into a generic secret.
		n := min(len(data), 32)
		part, err := t.deriveReadable(s, base, data[:n])
		if err != nil {
			return nil, err
		}
		out, data = append(out, part...), data[n:]
	}
	return out, nil
}

// deriveReadable gives E of the blocks of data, as a generic secret that no protocol
// uses as a key.
func (t *Token) deriveReadable(s pkcs11.SessionHandle, base *object, data []byte) ([]byte, error) {
	h, err := t.deriveECB(s, base, data, readableTemplate(len(data)))
	if err != nil {
		return nil, err
	}
	return t.readOnce(s, h, len(data))
}

// readOnce is the only place that reads CKA_VALUE. It destroys the object, which
// readableTemplate made.
func (t *Token) readOnce(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, length int) ([]byte, error) {
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if derr := t.ctx.DestroyObject(s, h); err == nil && derr != nil {
		return nil, failed("C_DestroyObject", derr)
	}
	if err != nil {
		return nil, failed("C_GetAttributeValue", err)
	}
	if len(got) != 1 || len(got[0].Value) != length {
		return nil, fmt.Errorf("hsm: the token derived a value of another length")
	}
	return got[0].Value, nil
}

// ecbMechanism returns the derivation by encryption of a base key.
func ecbMechanism(a key.Algorithm) uint {
	if a.TDEA() {
		return pkcs11.CKM_DES3_ECB_ENCRYPT_DATA
	}
	return pkcs11.CKM_AES_ECB_ENCRYPT_DATA
}

func (t *Token) deriveECB(s pkcs11.SessionHandle, base *object, data []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	m, done := stringDataMechanism(ecbMechanism(base.key.Algorithm()), data)
	defer done()
	h, err := t.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base.handle, template)
	return h, failed("C_DeriveKey", err)
}
