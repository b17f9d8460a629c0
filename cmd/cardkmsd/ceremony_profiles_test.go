package main

import (
	"context"
	"os"
	"strings"
	"testing"
)

// TestCeremonyProfiles: a ceremony registers a card profile once. One that broke off and is
// run again does not take back what officers registered meanwhile, and a profile whose
// known answers do not come out is none.
func TestCeremonyProfiles(t *testing.T) {
	s := newSite(t)
	s.stop()
	text := strings.Replace(devProfiles, "name: default", "name: product", 1)
	file := s.ceremony("one", text)
	if out, _ := s.crashing("after issuers/demo/profiles/product", "", "ceremony", "run", "--yes", file); !strings.Contains(out, "crash at") {
		t.Fatalf("no crash:\n%s", out)
	}
	newer := s.ceremony("two", strings.Replace(text, `level: "33"`, `level: "13"`, 1))
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", newer))
	if out := s.must(s.cardkmsd("", "ceremony", "run", "--yes", file)); !strings.Contains(out, "done already") {
		t.Errorf("run again:\n%s", out)
	}

	b, err := os.ReadFile("../../deploy/profiles/template.yaml")
	s.must("", err)
	indented := strings.ReplaceAll(strings.Replace(string(b), "0C790A", "0C790B", 1), "\n", "\n      ")
	s.refused("a wrong known answer", s.ceremony("wrong", "profiles:\n  - issuer: demo\n    document: |\n      "+indented+"\n"), "", "known answer card-keys")
	s.refused("an issuer of nobody", s.ceremony("nobody", strings.Replace(text, "issuer: demo", "issuer: nobody", 1)), "", "no issuer nobody")

	s.serve()
	c := s.client("auditor")
	p, err := c.Profile(context.Background(), "demo", "product", 0)
	if err != nil || p.Version != 2 || !strings.Contains(p.Document, `level: "13"`) {
		t.Errorf("%+v, %v", p, err)
	}
	all, err := c.Profiles(context.Background(), "demo")
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}
