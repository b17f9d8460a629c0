//go:build opencryptoki

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/api"
)

// TestServeRefusesOpencryptoki: beside the main token it keeps nobody from serving and
// gets no key; as the main token it keeps the service from starting.
func TestServeRefusesOpencryptoki(t *testing.T) {
	s := newSite(t)
	s.stop()
	const module = "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0"
	label := os.Getenv("CARDKMS_OCK_LABEL")
	s.must("", os.WriteFile(filepath.Join(s.dir, "ock.pin"), []byte(os.Getenv("CARDKMS_OCK_PIN")), 0o600))
	good, err := os.ReadFile(s.config())
	s.must("", err)
	write := func(text string) { s.must("", os.WriteFile(s.config(), []byte(text), 0o600)) }

	write(string(good) + fmt.Sprintf("tokens:\n  ock: {module: %s, label: %s, pin: 'file:ock.pin'}\n", module, label))
	file := s.ceremony("into-ock", "keys:\n  - {issuer: demo, key: lost, kvn: \"30\", token: ock, master: {generate: true}}\n")
	if out, err := s.cardkmsd("", "ceremony", "run", "--yes", file); err == nil || !strings.Contains(out, "token_unavailable") {
		t.Errorf("a ceremony makes a key there: %v\n%s", err, out)
	}
	s.serve()
	h, err := s.updateServer.Ready(t.Context())
	if err != nil || h.Status != "degraded" || len(h.Tokens) != 2 || h.Tokens[1].State != "unavailable" {
		t.Errorf("readyz: %+v, %v", h, err)
	}
	if _, status := s.recorder().opens("isd", 1); status != 200 {
		t.Errorf("a card of the main token: %d", status)
	}
	var p *api.Problem
	if _, err := s.updateServer.OpenChannel(t.Context(), "demo", api.OpenChannel{Key: "lost"}); !errors.As(err, &p) {
		t.Errorf("a channel under a key there: %v", err)
	}
	s.stop()

	main := strings.NewReplacer("label: cardkms-dev", "label: "+label, "pin: file:pin", "pin: file:ock.pin").Replace(string(good))
	from := strings.Index(main, "module: ")
	to := from + strings.IndexByte(main[from:], '\n')
	write(main[:from] + "module: " + module + main[to:])
	if out, err := s.cardkmsd("", "serve", "--config", s.config()); err == nil || !strings.Contains(out, "cannot derive keys inside") {
		t.Errorf("it serves from there: %v\n%s", err, out)
	}
}
