package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"cardkms/kms"
)

// referenceTable reads deploy/metrics.md: the labels of each metric that a query may name.
// TestMetrics compares that file with a server.
func referenceTable(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), namespace) {
			continue
		}
		name, labels := strings.TrimSpace(cells[1]), []string{"instance", "job"}
		for l := range strings.SplitSeq(cells[3], ",") {
			labels = append(labels, strings.TrimSpace(l))
		}
		if strings.TrimSpace(cells[2]) != "histogram" {
			out[name] = labels
			continue
		}
		out[name+"_bucket"] = append(labels, "le")
		out[name+"_sum"], out[name+"_count"] = labels, labels
	}
	return out
}

var (
	selector = regexp.MustCompile(`(cardkms_\w+)(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
)

// wrongIn says what a query names that does not exist. It knows names and labels and not
// the language: that a query is one, promtool says ("make check-alerts").
func wrongIn(expr string, known map[string][]string) (wrong []string) {
	var any []string // labels of all metrics of the query
	found := selector.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		wrong = append(wrong, "no metric of the service")
	}
	for _, m := range found {
		labels, ok := known[m[1]]
		if !ok {
			wrong = append(wrong, "the metric "+m[1])
		}
		any = append(any, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if ok && !slices.Contains(labels, l[1]) {
				wrong = append(wrong, "the label "+l[1]+" of "+m[1])
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if !slices.Contains(any, strings.TrimSpace(l)) {
				wrong = append(wrong, "the label "+l)
			}
		}
	}
	return wrong
}

type alerts struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []struct {
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

// TestAlerts: what the alert rules ask for exists, every rule says what is wrong, and the
// runbooks that they name are there.
func TestAlerts(t *testing.T) {
	known := referenceTable(t)
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file alerts
	if err := yaml.UnmarshalWithOptions(b, &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || r.Alert == "" || r.Annotations["summary"] == "" || !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
				t.Errorf("%q is twice or lacks a part", r.Alert)
			}
			seen[r.Alert] = true
			for _, w := range wrongIn(r.Expr, known) {
				t.Errorf("%s: %s does not exist", r.Alert, w)
			}
			for _, s := range kms.SealedStates() {
				page := strings.ReplaceAll(r.Annotations["runbook"], "{{ $labels.state }}", string(s))
				if _, err := os.Stat(filepath.Join("..", "..", page)); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d rules", len(seen))
	}
}

// TestDashboard: what the panels ask for exists, and every metric of the service is on one
// of them or in an alert.
func TestDashboard(t *testing.T) {
	known := referenceTable(t)
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "cardkms.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	for i, p := range dashboard.Panels {
		if p.ID != i+1 || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", i+1, p)
		}
		for _, target := range p.Targets {
			for _, w := range wrongIn(target.Expr, known) {
				t.Errorf("%s: %s does not exist", p.Title, w)
			}
		}
	}
	rules, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	shown := string(b) + string(rules)
	for name := range known {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if !strings.Contains(shown, base) {
			t.Errorf("%s is shown nowhere", base)
		}
	}
}

// TestWrongIn shows that the checks above can fail.
func TestWrongIn(t *testing.T) {
	known := map[string][]string{"cardkms_sealed": {"instance", "state"}, "cardkms_request_seconds_bucket": {"le", "route"}}
	for expr, wrong := range map[string]int{
		`max by (state) (cardkms_sealed{instance=~"a"})`: 0,
		`cardkms_seeled`:                                        1,
		`cardkms_sealed{token="a"}`:                             1,
		`sum by (token) (cardkms_sealed)`:                       1,
		`rate(cardkms_request_seconds{route="a"}[5m])`:          1,
		`rate(cardkms_request_seconds_bucket{le!="1"}[5m]) > 0`: 0,
		`up == 0`: 1,
	} {
		if got := wrongIn(expr, known); len(got) != wrong {
			t.Errorf("%s: %v, want %d", expr, got, wrong)
		}
	}
}
