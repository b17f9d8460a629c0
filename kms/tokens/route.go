package tokens

import (
	"context"
	"crypto/ecdh"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// of returns the one token of these keys; nil stands for a key that is not there, of which
// the token itself will say so.
func (s *Set[T]) of(keys ...*derive.Key) (t T, err error) {
	var first *derive.Key
	for _, k := range keys {
		switch {
		case k == nil:
		case first == nil:
			first = k
		case k.Token() != first.Token():
			return t, fault.New(fault.TokenUnable, "the keys are in two tokens, and no key leaves its token")
		}
	}
	if first == nil {
		return s.main, nil
	}
	return s.Get(first.Token())
}

// MAC implements derive.Token.
func (s *Set[T]) MAC(ctx context.Context, k *derive.Key, message []byte) ([]byte, error) {
	t, err := s.of(k)
	if err != nil {
		return nil, err
	}
	return t.MAC(ctx, k, message)
}

// Encrypt implements derive.Token.
func (s *Set[T]) Encrypt(ctx context.Context, k *derive.Key, data []byte) ([]byte, error) {
	t, err := s.of(k)
	if err != nil {
		return nil, err
	}
	return t.Encrypt(ctx, k, data)
}

// Decrypt implements derive.Token.
func (s *Set[T]) Decrypt(ctx context.Context, k *derive.Key, iv, data []byte) ([]byte, error) {
	t, err := s.of(k)
	if err != nil {
		return nil, err
	}
	return t.Decrypt(ctx, k, iv, data)
}

// RetailMAC implements derive.TDEAToken.
func (s *Set[T]) RetailMAC(ctx context.Context, k derive.RetailKey, message []byte) ([]byte, error) {
	t, err := s.of(k.Whole(), k.Left())
	if err != nil {
		return nil, err
	}
	return t.RetailMAC(ctx, k, message)
}

// Matches implements derive.Token.
func (s *Set[T]) Matches(ctx context.Context, base *derive.Key, step derive.Step, value []byte) (bool, error) {
	t, err := s.of(base)
	if err != nil {
		return false, err
	}
	return t.Matches(ctx, base, step, value)
}

// Challenge implements derive.Challenger.
func (s *Set[T]) Challenge(ctx context.Context, base *derive.Key, step derive.Step) ([]byte, error) {
	t, err := s.of(base)
	if err != nil {
		return nil, err
	}
	return t.Challenge(ctx, base, step)
}

// Ephemeral implements derive.Agreer.
func (s *Set[T]) Ephemeral(ctx context.Context, token string) (*derive.Key, *ecdh.PublicKey, error) {
	t, err := s.Get(token)
	if err != nil {
		return nil, nil, err
	}
	return t.Ephemeral(ctx, token)
}

// Agree implements derive.Agreer.
func (s *Set[T]) Agree(ctx context.Context, ours [2]*derive.Key, peers [2]*ecdh.PublicKey) (*derive.Key, error) {
	t, err := s.of(ours[:]...)
	if err != nil {
		return nil, err
	}
	return t.Agree(ctx, ours, peers)
}

// Wrap implements derive.Wrapper.
func (s *Set[T]) Wrap(ctx context.Context, dek, k *derive.Key) ([]byte, error) {
	t, err := s.of(dek, k)
	if err != nil {
		return nil, err
	}
	return t.Wrap(ctx, dek, k)
}

// KCV implements derive.Wrapper.
func (s *Set[T]) KCV(ctx context.Context, k *derive.Key) (key.KCV, error) {
	t, err := s.of(k)
	if err != nil {
		return key.KCV{}, err
	}
	return t.KCV(ctx, k)
}

// Release implements derive.Token. A token that is not there holds nothing to release.
func (s *Set[T]) Release(keys ...*derive.Key) {
	byToken := map[string][]*derive.Key{}
	for _, k := range keys {
		if k != nil {
			byToken[k.Token()] = append(byToken[k.Token()], k)
		}
	}
	for name, some := range byToken {
		if t, err := s.Get(name); err == nil {
			t.Release(some...)
		}
	}
}

// Random returns n bytes of the main token's random number generator.
func (s *Set[T]) Random(ctx context.Context, n int) ([]byte, error) { return s.main.Random(ctx, n) }
