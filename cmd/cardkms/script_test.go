package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/api/client"
)

// preparing is the service's half of prepared scripts: it refuses odd counters, fails
// once, and counts.
type preparing struct {
	cards, fail int
	sizes       []int
}

func (p *preparing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in api.PrepareScripts
	_ = json.NewDecoder(r.Body).Decode(&in)
	if p.fail--; p.fail == 0 {
		refuse(w, api.TokenUnavailable)
		return
	}
	p.cards, p.sizes = p.cards+len(in.Cards), append(p.sizes, len(in.Cards))
	var out api.PreparedScripts
	for _, c := range in.Cards {
		s := api.PreparedScript{KDD: c.KDD, Counter: c.Counter, Commands: in.Commands}
		if c.Counter%2 == 1 {
			s.Commands, s.Code = nil, api.CardCounter
		}
		out.Scripts = append(out.Scripts, s)
	}
	_ = json.NewEncoder(w).Encode(out)
}

// prepare runs the command against a service.
func (p *preparing) prepare(t *testing.T, cards, out string) (string, error) {
	t.Helper()
	web := httptest.NewTLSServer(p)
	defer web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	c, err := client.New(client.Config{BaseURL: web.URL, Cert: web.TLS.Certificates[0], RootCAs: pool, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var said bytes.Buffer
	a := &app{issuer: "demo", out: &said, err: &said}
	err = a.prepareFleet(t.Context(), c, api.PrepareScripts{Key: "isd", KVN: 0x30, Level: 3, Commands: []api.Hex{{0x80, 0xCA, 0, 0x66, 0}}}, cards, out)
	return said.String(), err
}

// TestPrepareFleet: one line for each card, in order, whether an earlier run broke off
// between two requests or in the middle of a line.
func TestPrepareFleet(t *testing.T) {
	dir := t.TempDir()
	cards, out := filepath.Join(dir, "cards"), filepath.Join(dir, "out")
	var list strings.Builder
	const n = 1203
	for i := range n {
		fmt.Fprintf(&list, `{"kdd": "%020X", "counter": %d}`+"\n", i, i+1)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cards, list.String())
	p := &preparing{fail: 2}
	if _, err := p.prepare(t, cards, out); err == nil || !strings.Contains(err.Error(), "after card 500") || exitCode(err) != exitTryLater {
		t.Fatalf("a request that failed: %v", err)
	}
	had, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	write(out, string(had)+strings.Repeat(`{"kdd": "half of a line `, 500)) // longer than any buffer
	said, err := p.prepare(t, cards, out)
	if err != nil || !strings.Contains(said, fmt.Sprintf("%d cards in the file", n)) {
		t.Fatalf("%v: %s", err, said)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	if len(lines) != n || p.cards != n {
		t.Fatalf("%d lines, %d cards were asked for, %d are there", len(lines), p.cards, n)
	}
	for i, l := range lines {
		var s api.PreparedScript
		if err := json.Unmarshal([]byte(l), &s); err != nil || s.KDD.String() != fmt.Sprintf("%020X", i) || (s.Code == "") != (len(s.Commands) == 1) {
			t.Fatalf("line %d is %s: %v", i+1, l, err)
		}
	}
	if fmt.Sprint(p.sizes) != "[500 500 203]" {
		t.Errorf("requests of %v cards", p.sizes)
	}
}

// TestPrepareBadFile: a bad line is named, and nobody is asked.
func TestPrepareBadFile(t *testing.T) {
	dir := t.TempDir()
	cards, out := filepath.Join(dir, "cards"), filepath.Join(dir, "out")
	for _, bad := range []string{`{"kdd": "0001", "counter": 1}`, `{"kdd": "00000000000000000001"}`, `{"kdd": "00000000000000000001", "counter": -1}`, `x`, ``, `{"kdd": "00000000000000000001", "counter": 1, "more": 1}`} {
		if err := os.WriteFile(cards, []byte(`{"kdd": "00000000000000000001", "counter": 1}`+"\n"+bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &preparing{}
		_, err := p.prepare(t, cards, out)
		if err == nil || !strings.Contains(err.Error(), "line 2") || exitCode(err) != exitUsage || len(p.sizes) > 0 {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q: a file of scripts was made", bad)
		}
	}
}
