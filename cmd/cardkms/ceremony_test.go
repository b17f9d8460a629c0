package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"cardkms/api"
	"cardkms/kms/approval/officerkey"
)

// bootstrap is the script command "bootstrap FROM TO PREFIX NAME...": TO is FROM, and makes
// the first officers with the public lines NAME.pub and identities under PREFIX.
func bootstrap(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0]) + "officers:\n  approvals: 2\n  first:\n"
	for _, name := range args[3:] {
		text += fmt.Sprintf("    - {name: %s, identity: spiffe://%s/%s, public: %q}\n", name, args[2], name, strings.TrimSpace(ts.ReadFile(name+".pub")))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// officers answers who the officers are: those whose public lines are in the directory.
func (s *service) officers(w http.ResponseWriter, _ *http.Request) {
	var out api.Control
	lines, _ := filepath.Glob(filepath.Join(s.dir, "*.pub"))
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		public, err := officerkey.ParseLine(line)
		if err != nil {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(path), ".pub")
		out.Officers = append(out.Officers, api.Officer{Name: name, Identity: "spiffe://example.com/role/security-officer/" + name, Public: api.Hex(public), State: "active"})
	}
	_ = json.NewEncoder(w).Encode(out)
}
