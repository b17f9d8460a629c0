package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func ExampleHex() {
	h, _ := ParseHex("80ca00E0")
	b, _ := json.Marshal(map[string]any{"command": h, "kvn": HexByte(0x30)})
	fmt.Println(string(b))
	// Output: {"command":"80CA00E0","kvn":"30"}
}

func FuzzHex(f *testing.F) {
	for _, s := range []string{"", "00", "aF", "0", "0g", " 00", "０0", "00\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHex(s)
		if err != nil {
			if err != ErrHex {
				t.Fatalf("%q: %v tells more than that it is not hexadecimal", s, err)
			}
			return
		}
		if h.String() != strings.ToUpper(s) || len(s) != 2*len(h) {
			t.Fatalf("%q became %s", s, h)
		}
		back, err := ParseHex(h.String())
		if err != nil || !bytes.Equal(back, h) {
			t.Fatalf("%s: %v", h, err)
		}
	})
}

func TestHexByte(t *testing.T) {
	for in, want := range map[string]HexByte{`"30"`: 0x30, `"fF"`: 0xFF, `"00"`: 0} {
		var b HexByte
		if err := json.Unmarshal([]byte(in), &b); err != nil || b != want {
			t.Errorf("%s: %v %v", in, b, err)
		}
	}
	for _, in := range []string{`""`, `"3"`, `"300"`, `"3g"`, `48`} {
		var b HexByte
		if err := json.Unmarshal([]byte(in), &b); err == nil {
			t.Errorf("%s: %v", in, b)
		}
	}
}

func TestRanges(t *testing.T) {
	for _, in := range [][]int{nil, {1}, {1, 2, 3}, {1, 3, 4, 9}} {
		p := Package{Chunks: 9, Missing: Ranges(in)}
		if got := p.MissingChunks(); !slices.Equal(got, in) {
			t.Errorf("%v became %v by %v", in, got, p.Missing)
		}
	}
	// A server that lies about a range must not make its client loop for ever.
	p := Package{Chunks: 3, Missing: []ChunkRange{{1, 1 << 62}}}
	if got := p.MissingChunks(); len(got) != 3 {
		t.Errorf("%v", got)
	}
}

func TestProblem(t *testing.T) {
	p := NewProblem(ProofFailed, "the proof does not verify", "r-1")
	if p.Status != 422 || p.Type != "urn:cardkms:error:proof_failed" || p.Error() != "proof_failed: the proof does not verify (request r-1)" {
		t.Errorf("%+v: %v", p, p)
	}
	p.Errors = []FieldError{{"/body/key", "expected string"}}
	if !strings.Contains(p.Error(), "; /body/key: expected string") {
		t.Errorf("%v", p)
	}
	if got := Code("no_such").Status(); got != 500 {
		t.Errorf("an unknown code is %d", got)
	}
}
