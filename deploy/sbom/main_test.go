package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestBill compares the bill of this test's own program with what the go command says of it.
func TestBill(t *testing.T) {
	var out, again bytes.Buffer
	if err := run([]string{os.Args[0]}, &out); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{os.Args[0]}, &again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("the same program has two bills, %v", err)
	}
	var bom struct {
		BOMFormat, SpecVersion string
		Components             []struct {
			Name, Version, PURL string
			Hashes              []struct{ Alg, Content string }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &bom); err != nil || bom.BOMFormat != "CycloneDX" {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	var got []string
	for _, c := range bom.Components {
		if c.Name == "stdlib" {
			continue
		}
		if len(c.Hashes) != 1 || len(c.Hashes[0].Content) != 64 || c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%+v", c)
		}
		got = append(got, c.Name+" "+c.Version)
	}
	said, err := exec.Command("go", "version", "-m", os.Args[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(said)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" {
			want = append(want, f[1]+" "+f[2])
		}
	}
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) || len(got) == 0 {
		t.Errorf("the bill has %v, the program %v", got, want)
	}
	if run(nil, &out) == nil || run([]string{"main.go"}, &out) == nil {
		t.Error("a bill of nothing was written")
	}
}
