package keywrap

import (
	"bytes"
	"encoding/hex"
	"testing"

	"cardkms/kms/secret"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors: RFC 3394, Section 4; RFC 5649, Section 6.
func TestVectors(t *testing.T) {
	for name, v := range map[string]struct {
		kek, key, want string
		pad            bool
	}{
		"RFC 3394 4.1": {"000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF", "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5", false},
		"RFC 3394 4.3": {"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF", "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7", false},
		"RFC 3394 4.6": {"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
			"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21", false},
		"RFC 5649 6, 20 bytes": {"5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8", "C37B7E6492584340BED12207808941155068F738", "138BDEAA9B8FA7FC61F97742E72248EE5AE6AE5360D1AE6A5F54F373FA543B6A", true},
		"RFC 5649 6, 7 bytes":  {"5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8", "466F7250617369", "AFBEB0F07DFBF5419200F2CCB50BB24F", true},
	} {
		t.Run(name, func(t *testing.T) {
			kek, k, want := secret.New(unhex(t, v.kek)), secret.New(unhex(t, v.key)), unhex(t, v.want)
			w, u := Wrap, Unwrap
			if v.pad {
				w, u = WrapPad, UnwrapPad
			}
			got, err := w(kek, k)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("wrapped %X, %v", got, err)
			}
			back, err := u(kek, got)
			if err != nil || !back.Equal(k) {
				t.Fatalf("unwrapped: %v", err)
			}
			for i := range got {
				got[i] ^= 1
				if _, err := u(kek, got); err == nil {
					t.Errorf("a blob with byte %d changed opened", i)
				}
				got[i] ^= 1
			}
			if _, err := u(kek, got[:len(got)-8]); err == nil {
				t.Error("a short blob opened")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	kek := secret.New(make([]byte, 32))
	for _, n := range []int{0, 8, 15, 17, bytesMax + 8} {
		if _, err := Wrap(kek, secret.New(make([]byte, n))); err == nil {
			t.Errorf("AES-KW of %d bytes", n)
		}
	}
	for _, n := range []int{0, bytesMax + 1} {
		if _, err := WrapPad(kek, secret.New(make([]byte, n))); err == nil {
			t.Errorf("AES-KWP of %d bytes", n)
		}
	}
	if _, err := Wrap(secret.New(make([]byte, 5)), secret.New(make([]byte, 16))); err == nil {
		t.Error("a key-encryption key of 5 bytes")
	}
}

func FuzzUnwrap(f *testing.F) {
	kek := secret.New(make([]byte, 16))
	b, _ := WrapPad(kek, secret.New([]byte("a key of 18 bytes.")))
	f.Add(b)
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := UnwrapPad(kek, b); err == nil {
			again, err := WrapPad(kek, k)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("%X opens and wraps as %X, %v", b, again, err)
			}
		}
		_, _ = Unwrap(kek, b)
	})
}
