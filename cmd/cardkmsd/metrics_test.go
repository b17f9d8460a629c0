package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"cardkms/api"
)

var updateReferences = flag.Bool("update", false, "write the committed references")

// scrape returns what Prometheus reads, and its metrics of ours by name.
func scrape(t testing.TB, admin string) (string, map[string]*dto.MetricFamily) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v: %s", resp.StatusCode, err, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	maps.DeleteFunc(all, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, namespace) })
	return string(text), all
}

// value returns the value of the one metric with these labels, in pairs.
func value(t testing.TB, all map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, m := range all[namespace+name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		found := true
		for i := 0; i < len(labels); i += 2 {
			found = found && has[labels[i]] == labels[i+1]
		}
		if found {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Errorf("there is no %s with %v", name, labels)
	return 0
}

// wrongCryptogram has a card answer with a cryptogram that is not its own.
func (s *site) wrongCryptogram(answer func(initializeUpdate []byte) ([]byte, error)) {
	s.t.Helper()
	o, err := s.updateServer.OpenChannel(s.t.Context(), "demo", api.OpenChannel{Key: "isd"})
	s.must("", err)
	a, err := answer(o.InitializeUpdate)
	s.must("", err)
	a[22] ^= 1
	if _, err = s.updateServer.Authenticate(s.t.Context(), "demo", o.ID, api.Authenticate{Response: a}); err == nil {
		s.t.Error("a wrong cryptogram passes")
	}
}

// TestMetrics compares the metrics after some traffic with the reference, and what they
// say with the traffic. The reference is written by -update.
func TestMetrics(t *testing.T) {
	admin := freeAddress(t)
	s := newSite(t, "admin: "+admin)
	r := s.recorder()
	card := s.card(0xABCDEF, 1024)
	r.authenticate(card)
	for range 3 {
		s.wrongCryptogram(card.Transmit)
	}
	r.call(http.MethodGet, "/v1/nothing/of-this-kind", nil, "", nil)
	text, all := scrape(t, admin)
	if strings.Contains(text, "ABCDEF") || strings.Contains(strings.ToLower(text), "abcdef") || strings.Contains(text, "of-this-kind") {
		t.Error("the metrics hold a card or a path")
	}
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "cards_quarantined_total", nil},
		{3, "operations_total", []string{"operation", "channel.authenticate", "outcome", "proof_failed"}},
		{1, "operations_total", []string{"operation", "channel.authenticate", "outcome", "ok"}},
		{1, "requests_total", []string{"route", "", "code", "not_found"}},
		{3, "client_requests_total", []string{"code", "proof_failed"}},
		{4, "request_seconds", []string{"route", "/v1/issuers/{issuer}/channels/{channel}:authenticate"}},
		{1, "channels_open", nil},
		{1, "token_up", []string{"token", "main"}},
		{0, "sealed", []string{"state", "hsm-down"}},
		{0, "halted", nil},
		{0, "database_violations", nil},
	} {
		if got := value(t, all, c.name, c.labels...); got != c.want {
			t.Errorf("%s %v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for _, name := range []string{"token_calls_total", "log_entries", "log_checkpoint_timestamp_seconds", "certificate_end_timestamp_seconds", "key_end_timestamp_seconds"} {
		if value(t, all, name) == 0 {
			t.Errorf("%s is 0", name)
		}
	}
	committed(t, filepath.Join("..", "..", "deploy", "metrics.md"), reference(all))
}

// committed compares a generated file with the one in the repository.
func committed(t *testing.T, path, text string) {
	t.Helper()
	if *updateReferences {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != text {
		t.Errorf("%s is not what the code says (%v); write it with -update:\n%s", path, err, text)
	}
}

// reference is deploy/metrics.md.
func reference(all map[string]*dto.MetricFamily) string {
	var b strings.Builder
	b.WriteString(`# Metrics

` + "`admin: 127.0.0.1:9464`" + ` (or ` + "`unix:PATH`" + `) in the configuration serves these at /metrics, as plain HTTP on this machine only, with those
of the Go runtime and of the process (go_*, process_*). Labels are words of closed lists; issuers, tokens, clients and
keepers are those of the configuration, keys and versions those that officers made. Generated by
` + "`go test ./cmd/cardkmsd -run TestMetrics -update`" + `.

| metric | type | labels | |
|---|---|---|---|
`)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		seen := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				seen[l.GetName()] = true
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(maps.Keys(seen)), ", "), f.GetHelp())
	}
	return b.String()
}

// TestAdminIsLocal: the metrics are served to this machine only.
func TestAdminIsLocal(t *testing.T) {
	for admin, ok := range map[string]bool{
		"127.0.0.1:9464": true, "[::1]:9464": true, "unix:admin.sock": true,
		"0.0.0.0:9464": false, ":9464": false, "192.0.2.1:9464": false, "localhost:9464": false, "unix:": false, "127.0.0.1": false, "nonsense": false,
	} {
		if _, _, err := (&config{Admin: admin}).adminAddress(); (err == nil) != ok {
			t.Errorf("%q: %v", admin, err)
		}
	}
	path := filepath.Join(t.TempDir(), "admin.sock")
	n := &node{cfg: &config{Admin: "unix:" + path}, metrics: newMetrics()}
	stop, err := n.serveAdmin(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://admin/metrics") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(b), "cardkms_build_info{") {
		t.Errorf("%v: %s", err, b)
	}
}
