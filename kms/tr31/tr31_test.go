package tr31

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/kms/key"
	"cardkms/kms/secret"
)

type vectors struct {
	Cases []struct {
		ID, Version, KBPK, Header, Key string
		KCV                            string `json:"kcv_openemv"`
		Blocks                         map[string]struct {
			Block  string            `json:"block"`
			Unwrap map[string]string `json:"unwrap"`
		}
	}
	Published []struct {
		ID  string
		In  struct{ KBPK, Block string }
		Out struct{ Key string }
	}
}

func load(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/tr31.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil || len(v.Cases) != 17 || len(v.Published) != 6 {
		t.Fatalf("%d cases, %d published, %v", len(v.Cases), len(v.Published), err)
	}
	return v
}

func unhex(t testing.TB, s string) secret.Bytes {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(b)
}

// TestPublished: the examples of the standards and of a payment HSM.
func TestPublished(t *testing.T) {
	for _, v := range load(t).Published {
		t.Run(v.ID, func(t *testing.T) {
			_, k, err := Unwrap(unhex(t, v.In.KBPK), v.In.Block)
			if err != nil || !k.Equal(unhex(t, v.Out.Key)) {
				t.Errorf("unwrapping: %v", err)
			}
		})
	}
}

// TestInterop reads every block of three other programs, and writes one that is read
// back. One of them writes version B in lower case, which another and this one refuse.
func TestInterop(t *testing.T) {
	read := 0
	for _, c := range load(t).Cases {
		for wrapper, b := range c.Blocks {
			t.Run(c.ID+"/"+wrapper, func(t *testing.T) {
				h, k, err := Unwrap(unhex(t, c.KBPK), b.Block)
				if c.Version == "A" || c.Version == "C" {
					if !errors.Is(err, errHeader) {
						t.Errorf("version %s: %v", c.Version, err)
					}
					return
				}
				if upper := b.Block[:16] + strings.ToUpper(b.Block[16:]); wrapper == "moov" && c.Version == "B" && b.Block != upper {
					if !errors.Is(err, errHeader) {
						t.Errorf("lower case: %v", err)
					}
					h, k, err = Unwrap(unhex(t, c.KBPK), upper)
				}
				if err != nil || !k.Equal(unhex(t, c.Key)) {
					t.Fatalf("unwrapping: %v", err)
				}
				read++
				rewrap(t, c.KBPK, h, k)
			})
		}
	}
	if read < 40 {
		t.Errorf("only %d blocks were read", read)
	}
}

func rewrap(t *testing.T, kbpk string, h Header, k secret.Bytes) {
	t.Helper()
	block, err := Wrap(unhex(t, kbpk), h, k)
	if protection(h.Version, len(kbpk)/2) < h.KeyAlgorithm(k.Len()).Strength() {
		if err == nil {
			t.Error("a key was wrapped under a weaker one")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	back, again, err := Unwrap(unhex(t, kbpk), block)
	if err != nil || !again.Equal(k) {
		t.Fatalf("our own block: %v", err)
	}
	if d := cmp.Diff(h, back); d != "" {
		t.Error(d)
	}
}

// TestTampered changes every character of two blocks: nothing opens.
func TestTampered(t *testing.T) {
	for _, id := range []string{"tr31-D256-B0T128-opt", "tr31-B192-E1T128"} {
		for _, c := range load(t).Cases {
			if c.ID != id {
				continue
			}
			kbpk, block := unhex(t, c.KBPK), c.Blocks["openemv"].Block
			for i := range block {
				for _, x := range []byte("0127ABDEFNSTX9\x00") {
					if x == block[i] {
						continue
					}
					changed := block[:i] + string([]byte{x}) + block[i+1:]
					if _, _, err := Unwrap(kbpk, changed); err == nil {
						t.Errorf("%s: character %d as %q opens", id, i, x)
					}
				}
				if _, _, err := Unwrap(kbpk, block[:i]); err == nil {
					t.Errorf("%s: %d characters open", id, i)
				}
			}
			kbpk.Reveal()[0] ^= 2 // not a parity bit
			if _, _, err := Unwrap(kbpk, block); !errors.Is(err, ErrBlock) {
				t.Errorf("another KBPK: %v", err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	h := Header{Version: 'D', Usage: "E5", Algorithm: 'A', Mode: 'X', KeyVersion: "00", Exportability: 'N'}
	k, kbpk := secret.New(make([]byte, 16)), secret.New(make([]byte, 32))
	for name, change := range map[string]func(*Header){
		"version A":         func(h *Header) { h.Version = 'A' },
		"a long usage":      func(h *Header) { h.Usage = "E55" },
		"a lower-case mode": func(h *Header) { h.Mode = 'x' },
		"exportability":     func(h *Header) { h.Exportability = 'X' },
		"a PB of our own":   func(h *Header) { h.Optional = []Optional{{"PB", "00"}} },
		"control character": func(h *Header) { h.Optional = []Optional{{"KS", "a\nb"}} },
		"3DES of 17 bytes":  func(h *Header) { h.Algorithm = 'T'; k = secret.New(make([]byte, 17)) },
	} {
		bad := h
		k = secret.New(make([]byte, 16))
		change(&bad)
		if b, err := Wrap(kbpk, bad, k); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
	k = secret.New(make([]byte, 16))
	long := h
	long.Optional = []Optional{{"LB", strings.Repeat("x", 300)}, {"KS", "00"}}
	b, err := Wrap(kbpk, long, k)
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := Unwrap(kbpk, b)
	if d := cmp.Diff(long, back); err != nil || d != "" {
		t.Error(err, d)
	}
	for _, n := range []int{0, 8, 15, 33} {
		if _, err := Wrap(secret.New(make([]byte, n)), h, k); err == nil {
			t.Errorf("a KBPK of %d bytes", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range load(f).Cases {
		for _, b := range c.Blocks {
			f.Add(b.Block)
		}
	}
	f.Fuzz(func(t *testing.T, block string) {
		h, chars, err := split(block)
		if err != nil {
			return
		}
		content := (len(block)-chars)/2 - macBytes(h.Version)
		again, err := h.encode(content)
		if err != nil {
			return // e.g. a block whose padding made it longer than ours would be
		}
		back, _, err := split(again + block[chars:])
		if d := cmp.Diff(h, back); err != nil || d != "" {
			t.Errorf("%q: %v\n%s", block, err, d)
		}
	})
}

// TestCheckValue: the check values that openemv computes, CMAC for AES.
func TestCheckValue(t *testing.T) {
	for _, c := range load(t).Cases {
		m := key.KCVTDEA
		if c.Header[7] == 'A' {
			m = key.KCVCMAC
		}
		kcv, err := CheckValue(m, unhex(t, c.Key))
		if err != nil || kcv.Value != c.KCV[:6] {
			t.Errorf("%s: %v, want %s (%v)", c.ID, kcv, c.KCV, err)
		}
	}
	kcv, err := CheckValue(key.KCVGPAES, unhex(t, "000102030405060708090A0B0C0D0E0F"))
	if err != nil || kcv.Value != "C35280" {
		t.Errorf("%v, %v", kcv, err)
	}
	if _, err := CheckValue("", unhex(t, "00")); err == nil {
		t.Error("no method")
	}
}
