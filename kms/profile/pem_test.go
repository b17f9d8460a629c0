package profile_test

import (
	"encoding/pem"
	"strings"
	"testing"

	"cardkms/kms/profile"
)

// TestDecodePEM: what is not whole certificates and nothing else is refused, above all a block
// that is damaged before a good one.
func TestDecodePEM(t *testing.T) {
	one := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, 300)}))
	for name, c := range map[string]struct {
		text string
		want int // certificates; -1 for refused
	}{
		"none":              {" \n", 0},
		"one":               {one, 1},
		"two, and lines":    {"\n" + one + "\n" + one, 2},
		"words before":      {"words\n" + one, -1},
		"words between":     {one + "words\n" + one, -1},
		"words behind":      {one + "words\n", -1},
		"a damaged first":   {strings.Replace(one, "AAAA", "!AAA", 1) + one, -1},
		"one without end":   {one[:100] + "\n" + one, -1},
		"a key":             {strings.ReplaceAll(one, "CERTIFICATE", "PUBLIC KEY"), -1},
		"headers":           {strings.Replace(one, "-----\n", "-----\nA: b\n\n", 1), -1},
		"a damaged and one": {one + strings.Replace(one, "AAAA", "!AAA", 1) + one, -1},
	} {
		out, err := profile.DecodePEM([]byte(c.text))
		if (err != nil) != (c.want < 0) || err == nil && len(out) != c.want {
			t.Errorf("%s: %d certificates, %v", name, len(out), err)
		}
	}
}
