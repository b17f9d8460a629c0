package apdu

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/kms/fault"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestParseCommand(t *testing.T) {
	long := bytes.Repeat([]byte{0xAB}, 300)
	for _, tc := range []struct {
		name, in string
		want     Command
	}{
		{"case 1", "80E40000", Command{CLA: 0x80, INS: 0xE4}},
		{"case 2 short", "80CA006600", Command{CLA: 0x80, INS: 0xCA, P2: 0x66, Ne: 256}},
		{"case 2 short, 5 bytes", "80CA006605", Command{CLA: 0x80, INS: 0xCA, P2: 0x66, Ne: 5}},
		{"case 3 short", "80F24000024F00", Command{CLA: 0x80, INS: 0xF2, P1: 0x40, Data: unhex("4F00")}},
		{"case 4 short", "80F24000024F0000", Command{CLA: 0x80, INS: 0xF2, P1: 0x40, Data: unhex("4F00"), Ne: 256}},
		{"case 2 extended", "80CA0066000000", Command{CLA: 0x80, INS: 0xCA, P2: 0x66, Ne: 65536, Extended: true}},
		{"case 3 extended", "80E2000000012C" + hex.EncodeToString(long), Command{CLA: 0x80, INS: 0xE2, Data: long, Extended: true}},
		{"case 4 extended", "80E200000000010A0200", Command{CLA: 0x80, INS: 0xE2, Data: []byte{0x0A}, Ne: 512, Extended: true}},
	} {
		got, err := ParseCommand(unhex(tc.in))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s:\n%s", tc.name, d)
		}
		if again := got.Bytes(); !bytes.Equal(again, unhex(tc.in)) {
			t.Errorf("%s: encodes as %X", tc.name, again)
		}
	}
	for name, in := range map[string]string{
		"empty": "", "three bytes": "80E400", "data missing": "80E2000005AABB", "data left over": "80E2000001AABBCC",
		"extended Lc cut": "80E200000001", "extended Lc zero": "80E20000000000AA", "extended data missing": "80E200000000050102",
		"extended Le of one byte": "80E20000000001AA00",
	} {
		if c, err := ParseCommand(unhex(in)); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: parsed as %+v, %v", name, c, err)
		}
	}
}

func TestParseResponse(t *testing.T) {
	r, err := ParseResponse(unhex("A8D56310"))
	if err != nil || r.SW != 0x6310 || !r.SW.Warning() || r.SW.String() != "6310" || !bytes.Equal(r.Bytes(), unhex("A8D56310")) {
		t.Errorf("%+v, %v", r, err)
	}
	if Success.Warning() || SW(0x6982).Warning() {
		t.Error("a success or an error counts as warning")
	}
	for _, bad := range [][]byte{nil, {0x90}, make([]byte, 65539)} {
		if _, err := ParseResponse(bad); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("a response of %d bytes: %v", len(bad), err)
		}
	}
}

func TestTLV(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535} {
		for _, tag := range []Tag{0x80, 0xE1, 0x9F7F} {
			enc := AppendTLV(nil, tag, make([]byte, n))
			obj, rest, err := NextTLV(append(enc, 0xFF))
			if err != nil || obj.Tag != tag || len(obj.Value) != n || len(rest) != 1 {
				t.Errorf("tag %X, %d bytes: %v, %d left", tag, n, err, len(rest))
			}
		}
	}
	for name, in := range map[string]string{
		"no length": "80", "value missing": "800201", "81 not minimal": "80817F" + hex.EncodeToString(make([]byte, 127)),
		"82 not minimal": "808200FF" + hex.EncodeToString(make([]byte, 255)), "indefinite": "80800000", "83": "8083000001AA",
		"tag of three bytes": "9F818001AA", "two-byte tag below 31": "9F1E00", "cut tag": "9F",
	} {
		if _, err := ParseTLVs(unhex(in)); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"80E40000", "80CA006600", "80F24000024F0000", "80CA0066000000", "80E200000000010A0200", "80E2"} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCommand(b)
		if err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Errorf("%X parses and encodes as %X", b, c.Bytes())
		}
	})
}

func FuzzTLV(f *testing.F) {
	f.Add(unhex("E103800101"))
	f.Add(unhex("9F7F818000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		objs, err := ParseTLVs(b)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range objs {
			again = AppendTLV(again, o.Tag, o.Value)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%X parses and encodes as %X", b, again)
		}
	})
}
