package derive

import (
	"bytes"
	"context"
	"fmt"

	"cardkms/kms/key"
)

// RetailKey is a 2-key 3DES key K1|K2 of the retail MAC: [9797-1] ISO/IEC
// 9797-1:2011, Section 7.4, MAC algorithm 3 with DES. With M1…Mn the padded message
//
//	x = DES-CBC(K1, IV 0, M1…Mn-1), its last block    MAC = 3DES(K1|K2|K1, x xor Mn)
//
// A token without single DES computes x under K1|K1|K1, whose 3DES is DES under K1.
// So the key is two objects inside the token: the whole, for the last block, and the
// left half three times, for the others. Neither may do what the other does: x is
// under 56 bits of key and never leaves the token's process.
type RetailKey struct{ whole, left *Key }

// Retail refers to the key of the retail MAC that follows from k by s: 16 bytes of
// ECB or CBC, whose first block is the same in both and gives the left half.
func (k *Key) Retail(s Step) (RetailKey, error) {
	if (s.Function != ECB && s.Function != CBC) || len(s.Messages) != 1 || len(s.Messages[0]) != 16 || !k.Algorithm().TDEA() {
		return RetailKey{}, fmt.Errorf("derive: a key of the retail MAC is two blocks of 3DES")
	}
	s.Class, s.Algorithm = SessionRetail, key.TDEA2
	thrice := bytes.Repeat(s.Messages[0][:8], 3)
	left := Step{Function: ECB, Messages: [][]byte{thrice}, Class: SessionRetailLeft, Algorithm: key.TDEA3}
	return RetailKey{whole: k.Derive(s), left: k.Derive(left)}, nil
}

// RetailXOR refers to the key of the retail MAC that is another key xor mask, 16 bytes.
// That other key follows from k by made, two blocks of ECB, and is of class Static: so its
// left half three times can be made in the same way.
func (k *Key) RetailXOR(made Step, mask []byte) (RetailKey, error) {
	if made.Function != ECB || len(made.Messages) != 1 || len(made.Messages[0]) != 16 || len(mask) != 16 || !k.Algorithm().TDEA() {
		return RetailKey{}, fmt.Errorf("derive: a key of the retail MAC is two blocks of 3DES")
	}
	thrice := func(b []byte) []byte { return bytes.Repeat(b[:8], 3) }
	left := Step{Function: ECB, Messages: [][]byte{thrice(made.Messages[0])}, Class: Static, Algorithm: key.TDEA3}
	return RetailKey{
		whole: k.Derive(made).Derive(Step{Function: XOR, Messages: [][]byte{mask}, Class: SessionRetail, Algorithm: key.TDEA2}),
		left:  k.Derive(left).Derive(Step{Function: XOR, Messages: [][]byte{thrice(mask)}, Class: SessionRetailLeft, Algorithm: key.TDEA3}),
	}, nil
}

// RetailFromRoots refers to a key of the retail MAC whose two objects exist: for
// known answers whose vectors give the key itself.
func RetailFromRoots(whole, left *Key) RetailKey { return RetailKey{whole, left} }

// Whole returns the key of class SessionRetail, nil for the zero RetailKey.
func (k RetailKey) Whole() *Key { return k.whole }

// Left returns the key of class SessionRetailLeft, nil for the zero RetailKey.
func (k RetailKey) Left() *Key { return k.left }

// TDEAToken is a Token that also serves the protocols of 3DES cards.
type TDEAToken interface {
	Token
	// RetailMAC returns the 8 bytes of the retail MAC under k over message, one or
	// more whole blocks of 8 bytes, padded by the caller.
	RetailMAC(ctx context.Context, k RetailKey, message []byte) ([]byte, error)
}
