package ledger

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCanaryRows runs the suite of the rogue administrator with a seeded bug, to
// show that the suite can fail.
func TestCanaryRows(t *testing.T) {
	const inside = "CARDKMS_CANARY"
	if os.Getenv(inside) != "" {
		t.Skip("this is the run with the seeded bug")
	}
	cmd := exec.Command("go", "test", "-tags", "canary_rows", "-count", "1", "-run", "^TestRogueAdministrator$/^put_back_an_older_version$", ".")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "reading the row") {
		t.Errorf("the suite does not find the seeded bug: %v\n%s", err, out)
	}
}
