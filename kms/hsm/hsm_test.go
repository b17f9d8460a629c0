package hsm_test

import (
	"testing"

	"cardkms/kms/hsm"
	"cardkms/softhsm/testtoken"
)

func TestMain(m *testing.M) { testtoken.Main(m) }

// tokens runs f on every kind of token that the tests have.
func tokens(t *testing.T, f func(*testing.T, *hsm.Token)) {
	t.Run("softhsm", func(t *testing.T) { f(t, testtoken.SoftHSM(t)) })
	t.Run("nss", func(t *testing.T) { f(t, testtoken.NSS(t)) })
}

func TestCapabilities(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		for _, c := range tok.Capabilities() {
			t.Logf("%-50s %-45s %v", c.Operation, c.Plan, c.Err)
		}
	})
}
