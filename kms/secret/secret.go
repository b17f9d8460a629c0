// Package secret keeps the few bytes that are secret outside the token: PINs,
// and key components while an officer enters them. Components lie in Locked memory.
//
// A Bytes cannot be printed by accident. Its bytes live behind a function, which
// no formatter, JSON encoder or reflection-based logger follows, and it formats
// itself as [redacted] under every verb and at any nesting. Reveal is the only
// way to the bytes; Wipe overwrites them.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Redacted is what a Bytes shows of itself.
const Redacted = "[redacted]"

// Bytes holds a secret value. The zero value is empty.
type Bytes struct{ reveal func() []byte }

// New takes ownership of b: the caller must not keep another reference.
func New(b []byte) Bytes { return Bytes{reveal: func() []byte { return b }} }

// Reveal returns the secret itself, not a copy. The caller must not let it reach
// a log, an error or a longer-lived value.
func (s Bytes) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Len returns the number of bytes.
func (s Bytes) Len() int { return len(s.Reveal()) }

// Equal compares in constant time for secrets of one length.
func (s Bytes) Equal(o Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), o.Reveal()) == 1
}

// Wipe overwrites the secret with zeros.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// String implements fmt.Stringer.
func (s Bytes) String() string { return Redacted }

// Format implements fmt.Formatter, so that no verb reaches the bytes.
func (s Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// MarshalText implements encoding.TextMarshaler for JSON and YAML.
func (s Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// LogValue implements slog.LogValuer.
func (s Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// XOR combines key components of one length into a new secret, the sum of all of
// them. The caller wipes the components. It panics on components of different
// lengths, which their check excludes.
func XOR(components ...Bytes) Bytes {
	out := make([]byte, components[0].Len())
	for _, c := range components {
		if subtle.XORBytes(out, out, c.Reveal()) != len(out) || c.Len() != len(out) {
			panic("secret: components of different lengths")
		}
	}
	return New(out)
}
