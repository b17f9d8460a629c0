package derivetest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// Octets are bytes in hexadecimal of either case; nil for null.
type Octets []byte

// UnmarshalJSON implements json.Unmarshaler.
func (o *Octets) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	v, err := hex.DecodeString(*s)
	*o = v
	return err
}

// ReadVectors reads a file of the test's testdata.
func ReadVectors(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
