package scp02_test

import (
	"testing"

	"cardkms/derive/scp02"
	"cardkms/kms/fault"
)

// TestOfflineRefuses: a card that chooses its challenge cannot be prepared for, and lengths
// are checked before a token is asked.
func TestOfflineRefuses(t *testing.T) {
	for what, o := range map[string]scp02.Offline{
		"i 15":              {I: 0x15, HostChallenge: make([]byte, 8), AID: make([]byte, 8)},
		"i 35":              {I: 0x35, HostChallenge: make([]byte, 8), AID: make([]byte, 8)},
		"an unknown i":      {I: 0x16, HostChallenge: make([]byte, 8), AID: make([]byte, 8)},
		"a short challenge": {I: 0x55, HostChallenge: make([]byte, 7), AID: make([]byte, 8)},
	} {
		if _, out, err := o.Prepare(t.Context(), nil, nil); fault.CodeOf(err) != fault.InvalidInput || out != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
