package version

import "testing"

// TestVersion: a test binary has no stamp, so the number has to do for both.
func TestVersion(t *testing.T) {
	if String() != unknown || Revision() != unknown {
		t.Errorf("nobody said a number: %s, %s", String(), Revision())
	}
	number = "1.2.3"
	defer func() { number = "" }()
	if String() != "1.2.3" || Revision() != "1.2.3" {
		t.Errorf("%s, %s", String(), Revision())
	}
}
