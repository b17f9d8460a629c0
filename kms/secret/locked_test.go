package secret

import (
	"bytes"
	"testing"
)

func TestLocked(t *testing.T) {
	l, err := NewLocked(100)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Free()
	one, two := l.Take(32), l.Take(32)
	copy(one.Reveal(), bytes.Repeat([]byte{1}, 32))
	if two.Equal(one) || one.Len() != 32 || !bytes.Equal(two.Reveal(), make([]byte, 32)) {
		t.Error("two secrets share memory")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("more than there is was taken")
			}
		}()
		l.Take(1 << 20)
	}()
	l.Free()
	l.Free()
}
