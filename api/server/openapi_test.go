package server

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"

	"github.com/google/go-cmp/cmp"
)

const openAPIFile = "../openapi.yaml"

// TestOpenAPI compares the committed document with what the server registers.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	rec := w.do(ask{as: uriAuditor, method: http.MethodGet, path: "/v1/openapi.yaml"})
	if rec.Code != http.StatusOK || rec.Header().Get("Content-Type") != "application/yaml" {
		t.Fatalf("%d %v", rec.Code, rec.Header())
	}
	if *updateGolden {
		must(t, os.WriteFile(openAPIFile, rec.Body.Bytes(), 0o644))
		return
	}
	committed, err := os.ReadFile(openAPIFile)
	must(t, err)
	if diff := cmp.Diff(string(committed), rec.Body.String()); diff != "" {
		t.Fatalf("api/openapi.yaml is not what the server registers; refresh it with\n\n\tgo test ./api/server -run TestOpenAPI -update\n\n%s", diff)
	}
}

// TestCodes compares the codes of the API, of the service and of the document.
func TestCodes(t *testing.T) {
	var ours []fault.Code
	for _, c := range api.Codes() {
		ours = append(ours, fault.Code(c))
		if c.Status() < 400 || c.Title() == "" {
			t.Errorf("%s has status %d and title %q", c, c.Status(), c.Title())
		}
	}
	if diff := cmp.Diff(fault.Codes(), ours); diff != "" {
		t.Errorf("package api has other codes than package fault: %s", diff)
	}
	committed, err := os.ReadFile(openAPIFile)
	must(t, err)
	for _, c := range fault.Codes() {
		if !strings.Contains(string(committed), "- "+string(c)+"\n") || !strings.Contains(string(committed), "`"+string(c)+"`: ") {
			t.Errorf("%s is not documented", c)
		}
	}
}

// TestOperations checks that each operation of the service has a path, and each
// path an operation of the service.
func TestOperations(t *testing.T) {
	w := newWorld(t)
	var served []kms.Operation
	for _, rt := range w.server.routes {
		served = append(served, rt.does)
	}
	for _, op := range kms.Operations() {
		if !slices.Contains(served, op) {
			t.Errorf("%s has no path", op)
		}
	}
	for _, op := range served {
		if !slices.Contains(kms.Operations(), op) {
			t.Errorf("%q is no operation of the service", op)
		}
	}
}

// TestChangesNeedKeys checks that every POST and DELETE is a change with an
// Idempotency-Key.
func TestChangesNeedKeys(t *testing.T) {
	for _, rt := range newWorld(t).server.routes {
		if change := rt.method != http.MethodGet && rt.method != http.MethodPut; rt.keyed != change {
			t.Errorf("%s %s: keyed is %v", rt.method, rt.path, rt.keyed)
		}
	}
}
