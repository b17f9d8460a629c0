package hsm_test

import (
	"fmt"
	"slices"
	"testing"

	"cardkms/kms/hsm"
)

// TestStats: calls are counted by function and by what came of them, and what was leased
// is free again.
func TestStats(t *testing.T) {
	ownTokens(t, func(c *hsm.Config) { c.Logger = quiet }, func(t *testing.T, tok *hsm.Token) {
		w := newWorkload(t, tok, 2)
		before := tok.Stats()
		if _, err := tok.MAC(ctx, w.macs[0], message); err != nil {
			t.Fatal(err)
		}
		unused(t, tok)
		after := tok.Stats()
		sign := hsm.Call{Function: "C_Sign", Result: "ok"}
		if after.Calls[sign] <= before.Calls[sign] {
			t.Errorf("C_Sign: %d, then %d", before.Calls[sign], after.Calls[sign])
		}
		if after.InUse != 0 || after.Waiting != 0 || after.Sessions != 8 || after.Objects != tok.LiveObjects() || after.Objects == 0 {
			t.Errorf("%+v", after)
		}
		// Sessions that the token closed are found out by the next operation.
		if err := tok.LoseSessions(); err != nil {
			t.Fatal(err)
		}
		if _, err := tok.MAC(ctx, w.macs[0], message); err != nil {
			t.Fatal(err)
		}
		failed := uint64(0)
		for call, n := range tok.Stats().Calls {
			if !slices.Contains(hsm.Results(), call.Result) {
				t.Errorf("%v is a result of no list", call)
			}
			if call.Result != "ok" {
				failed += n
			}
		}
		if failed == 0 {
			t.Error("no call failed although every session was closed")
		}
		unused(t, tok)
	})
}

// unused waits until no session is leased: an answer comes before its session is given back.
func unused(t *testing.T, tok *hsm.Token) {
	t.Helper()
	eventually(t, "no session is in use", func() error {
		if n := tok.Stats().InUse; n != 0 {
			return fmt.Errorf("%d sessions are in use", n)
		}
		return nil
	})
}
