package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefusedStart: what the configuration alone decides has the status that service
// managers do not start again after, and no start that failed is in the log.
func TestRefusedStart(t *testing.T) {
	s := newSite(t)
	s.stop()
	busy, err := net.Listen("tcp4", strings.TrimPrefix(s.url, "https://"))
	s.must("", err)
	replace := func(old, now string) func(string) string {
		return func(text string) string {
			if !strings.Contains(text, old) {
				t.Errorf("the configuration has no %q", old)
			}
			return strings.Replace(text, old, now, 1)
		}
	}
	for name, c := range map[string]struct {
		change func(string) string
		status int
		says   string
	}{
		"a PIN in the file":     {replace("pin: file:pin", `pin: "271828"`), exitUsage, "token.pin: a secret is a reference"},
		"no PIN file":           {replace("pin: file:pin", "pin: file:none"), exitUsage, "token.pin: "},
		"no PIN variable":       {replace("pin: file:pin", "pin: env:CARDKMS_NO_PIN"), exitUsage, "token.pin: "},
		"no verifier key":       {replace("verifier: \"", "verifier: \"x"), exitUsage, "log.verifier: "},
		"a check value of none": {replace("state: {label: cardkms-state, kcv: \"", "state: {label: cardkms-state, kcv: \"\"} #"), exitUsage, "token.state: "},
		"no certificate":        {replace("certificate: tls/server.pem", "certificate: tls/none.pem"), exitUsage, "none.pem"},
		"another's key":         {replace("key: tls/server.key", "key: tls/operator.key"), exitUsage, "certificate"},
		"no client CA":          {replace("clientCAs: tls/ca.pem", "clientCAs: pin"), exitUsage, "tls.clientCAs"},
		"no module":             {func(text string) string { return strings.Replace(text, "module: \"/", "module: \"/nowhere/", 1) }, exitUsage, "token.module: "},
		"no port":               {replace("listen: \"127.0.0.1:", "listen: \"127.0.0.1:9"), exitUsage, "listen: "},
		"a port that is taken":  {func(text string) string { return text }, exitFailure, "listening: "},
	} {
		t.Run(name, func(t *testing.T) {
			var before string
			s.configure(func(text string) string { before = text; return c.change(text) })
			defer s.configure(func(string) string { return before })
			out, err := s.cardkmsd("", "serve", "--config", s.config())
			if got := exitStatus(err); got != c.status || !strings.Contains(out, c.says) || strings.Contains(out, "271828") {
				t.Errorf("%d, want %d and %q:\n%s", got, c.status, c.says, out)
			}
		})
	}
	out, err := s.cardkmsd("", "serve", "--config", filepath.Join(s.dir, "none.yaml"))
	if exitStatus(err) != exitUsage {
		t.Errorf("no configuration: %v\n%s", err, out)
	}
	s.must("", busy.Close())
	s.serve()
	entries, err := s.client("auditor").AuditEntries(t.Context(), 0, 1000)
	s.must("", err)
	starts := 0
	for _, e := range entries.Entries {
		if strings.Contains(e.Text, "\noperation service.start\n") {
			starts++
		}
	}
	if starts != 2 {
		t.Errorf("the log has %d starts, and 2 served", starts)
	}
}
