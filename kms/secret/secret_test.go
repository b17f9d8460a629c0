package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestBytesNeverShowThemselves(t *testing.T) {
	const value = "correct horse"
	type nested struct{ In struct{ PIN Bytes } }
	var n nested
	n.In.PIN = New([]byte(value))
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&out, verb+"\n", n)
		fmt.Fprintf(&out, verb+"\n", n.In.PIN)
		fmt.Fprintf(&out, verb+"\n", &n)
	}
	j, err := json.Marshal(map[string]any{"a": []any{n, n.In.PIN}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "n", n, "pin", n.In.PIN)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "n", n, "pin", n.In.PIN)
	for _, leak := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), fmt.Sprint([]byte(value))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("the secret shows as %q in:\n%s", leak, out.String())
		}
	}
}

func TestWipe(t *testing.T) {
	b := []byte("1234")
	s := New(b)
	if !s.Equal(New([]byte("1234"))) || s.Equal(New([]byte("1235"))) || s.Len() != 4 {
		t.Fatal("Equal or Len is wrong")
	}
	s.Wipe()
	if !bytes.Equal(b, make([]byte, 4)) {
		t.Error("Wipe left the bytes in place")
	}
	if (Bytes{}).Reveal() != nil {
		t.Error("the zero value is not empty")
	}
}
