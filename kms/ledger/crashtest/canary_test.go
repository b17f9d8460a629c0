package crashtest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// canaryVariable says that this test binary is the one with the bug.
const canaryVariable = "CARDKMS_CRASH_CANARY"

// TestCanaryAck runs a part of TestCrash on a ledger that acknowledges before it commits. It
// must fail, and for this reason.
func TestCanaryAck(t *testing.T) {
	if os.Getenv(canaryVariable) != "" {
		return // the tests of the canary look for the bug; they are not the bug's own
	}
	cmd := exec.Command("go", "test", "-count", "1", "-tags", "canary_ack", "-run", "^TestCrash$/^SIGKILL$", ".")
	cmd.Env = append(os.Environ(), canaryVariable+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("acknowledging before the commit was not found:\n%s", out)
	}
	if !strings.Contains(string(out), "was acknowledged at") {
		t.Fatalf("the test with the bug failed for another reason: %v\n%s", err, out)
	}
}
