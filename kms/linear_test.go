package kms_test

import (
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// stateModel is a key version as it should look to everybody: one state, which an
// operation reads or changes at one moment between its call and its return. The
// input is the state that the operation leads to, empty for a use; the output is
// whether it succeeded. Only what is active is used or suspended, and only what is
// suspended is activated.
var stateModel = porcupine.Model{
	Init: func() any { return key.Active },
	Step: func(state, input, output any) (bool, any) {
		active := state.(key.State) == key.Active
		switch to := input.(key.State); {
		case to == "":
			return output.(bool) == active, state
		case output.(bool) != (active == (to == key.Suspended)):
			return false, state
		case output.(bool):
			return true, to
		}
		return true, state
	},
}

// TestKeyStatesAreLinearizable has officers suspend and activate a version while
// others use it, and has porcupine find an order of all of that which explains
// every answer. The clock stands still, so that a cache of old states shows.
func TestKeyStatesAreLinearizable(t *testing.T) {
	rounds, operations := 3, 3000
	if os.Getenv("CARDKMS_LONG") != "" {
		rounds, operations = 10, 10_000
	}
	h := newHarness(t)
	b := h.officers()
	for round := range rounds {
		if h.version(1).State == key.Suspended {
			h.must(b.decide(approval.KeyActivate, h.versionName(1), nil))
		}
		history := b.drive(int64(round), operations)
		if !porcupine.CheckOperations(stateModel, history) {
			t.Fatalf("round %d: no order of %d operations explains the answers", round, len(history))
		}
	}
	t.Logf("%d rounds of %d operations", rounds, operations)
}

// drive runs users beside an officer who suspends and officers who activate.
func (b *board) drive(seed int64, operations int) []porcupine.Operation {
	const clients = 8
	h := b.h
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewSource(seed*100 + int64(c)))
			for range operations / clients {
				op := porcupine.Operation{ClientId: c, Call: time.Since(begin).Nanoseconds()}
				var err error
				to := key.State("")
				if rng.Intn(20) == 0 && c < 2 {
					to = []key.State{key.Suspended, key.Active}[c]
				}
				switch to {
				case key.Suspended:
					_, err = h.service.SuspendKey(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", 1)
				case key.Active:
					err = b.decideNow(approval.KeyActivate, h.versionName(1), nil)
				default:
					err = h.service.Serving(h.ctx, h.issuer, "isd", kvn)
				}
				if fault.CodeOf(err) == fault.ApprovalVoid {
					continue // suspended while it was proposed: it did nothing, and says nothing of the state
				}
				if code := fault.CodeOf(err); code != fault.OK && code != fault.KeyState {
					h.t.Error(err)
				}
				op.Input, op.Output = to, err == nil
				op.Return = time.Since(begin).Nanoseconds()
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return history
}

// TestCanaryCache runs the test above with a seeded bug, to show that it can fail.
func TestCanaryCache(t *testing.T) {
	const inside = "CARDKMS_CANARY"
	if os.Getenv(inside) != "" {
		t.Skip("this is the run with the seeded bug")
	}
	cmd := exec.Command("go", "test", "-tags", "canary_cache", "-count", "1", "-run", "^TestKeyStatesAreLinearizable$", ".")
	cmd.Env = append(os.Environ(), inside+"=1", "CARDKMS_LONG=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no order of") {
		t.Errorf("the test does not find the seeded bug: %v\n%s", err, out)
	}
}
